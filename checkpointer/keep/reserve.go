package keep

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hostLocal is where the IPAM plugin host-local notes which addresses are given: one file
// for each, named after it, that has whom it was given to. When a pod ends, the plugin
// removes those with exactly its name, so that a file with more in it stays.
const hostLocal = "/var/lib/cni/networks"

// mark begins the line that is added to such a file.
const mark = "lifeboat "

// Reservation is an address that no other pod may be given.
type Reservation struct {
	Address netip.Addr
	// Sandbox is the pod sandbox that it was given to.
	Sandbox string
	// Owner is who has reserved it.
	Owner string

	file string
	// before is the content of the file without the reservation.
	before string
}

// Given finds how an address was given to a sandbox, on the node whose files are below root.
func Given(root string, address netip.Addr, sandbox string) (*Reservation, error) {
	files, err := filepath.Glob(filepath.Join(root, hostLocal, "*", address.String()))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		r, err := readReservation(file)
		if err == nil && r.Sandbox == sandbox {
			return r, nil
		}
	}
	return nil, fmt.Errorf("the CNI plugin host-local has not given the address %s to the pod, so that it cannot be kept reserved", address)
}

// Reservations are all of a node.
func Reservations(root string) ([]*Reservation, error) {
	files, err := filepath.Glob(filepath.Join(root, hostLocal, "*", "*"))
	if err != nil {
		return nil, err
	}
	var all []*Reservation
	for _, file := range files {
		if _, err := netip.ParseAddr(filepath.Base(file)); err != nil {
			continue
		}
		r, err := readReservation(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read whom an address was given to: %w", err)
		}
		if r.Owner != "" {
			all = append(all, r)
		}
	}
	return all, nil
}

func readReservation(file string) (*Reservation, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &Reservation{file: file}
	if r.Address, err = netip.ParseAddr(filepath.Base(file)); err != nil {
		return nil, err
	}
	var owner string
	r.before, owner, _ = strings.Cut(string(raw), "\r\n"+mark)
	r.Owner = strings.TrimSpace(owner)
	sandbox, _, _ := strings.Cut(r.before, "\n")
	r.Sandbox = strings.TrimSpace(sandbox)
	return r, nil
}

// Reserve notes on stable storage that the address is not to be given to anybody else. It
// may be called again.
func (r *Reservation) Reserve(owner string) error {
	r.Owner = owner
	return r.change(func() error { return r.write(r.before + "\r\n" + mark + owner) })
}

// GiveBack makes the address the sandbox's again, with whose end it becomes free.
func (r *Reservation) GiveBack() error {
	return r.change(func() error { return r.write(r.before) })
}

// Release makes the address free. Its sandbox must have ended.
func (r *Reservation) Release() error {
	return r.change(func() error {
		if err := os.Remove(r.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// change changes the file while host-local does not.
func (r *Reservation) change(f func() error) error {
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(r.file), "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock the addresses of the CNI plugin: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the addresses of the CNI plugin: %w", err)
	}
	if err := f(); err != nil {
		return fmt.Errorf("note whom address %s is for: %w", r.Address, err)
	}
	return nil
}

// write replaces the content. The file is written in place: host-local looks at every file
// of the folder.
func (r *Reservation) write(content string) error {
	file, err := os.OpenFile(r.file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt([]byte(content), 0)
	return errors.Join(err, file.Truncate(int64(len(content))), file.Sync(), file.Close())
}
