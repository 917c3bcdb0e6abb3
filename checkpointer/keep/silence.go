package keep

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// silenceTable drops everything that comes into a network namespace, goes out of it, or
// stays within.
const silenceTable = "lifeboat-silence"

// Silence drops all packets in the network namespace at a path, until it ends or Unsilence
// is called. It may be called again.
func Silence(netNS string) error {
	return inside(netNS, func(conn *nftables.Conn) error {
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: silenceTable})
		drop := nftables.ChainPolicyDrop
		for name, hook := range map[string]*nftables.ChainHook{"input": nftables.ChainHookInput, "output": nftables.ChainHookOutput} {
			conn.AddChain(&nftables.Chain{
				Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRaw, Policy: &drop,
			})
		}
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("silence the network %s: %w", netNS, err)
		}
		return nil
	})
}

// Unsilence takes Silence back. A network that is not silent, or not there any more, is
// left as it is.
func Unsilence(netNS string) error {
	err := inside(netNS, func(conn *nftables.Conn) error {
		conn.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: silenceTable})
		return conn.Flush()
	})
	if err != nil && !errors.Is(err, unix.ENOENT) && !gone(err) {
		return fmt.Errorf("let the network %s speak again: %w", netNS, err)
	}
	return nil
}

// inside calls f with the packet filter of a network namespace.
func inside(netNS string, f func(*nftables.Conn) error) error {
	file, err := openNetwork(netNS)
	if err != nil {
		return err
	}
	defer file.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(file.Fd())))
	if err != nil {
		return fmt.Errorf("open the packet filter of %s: %w", netNS, err)
	}
	return f(conn)
}

// openNetwork opens a network namespace. Of one that has ended, the plain file may be left
// that it was mounted on: that is os.ErrNotExist, too.
func openNetwork(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &stat); err != nil {
		file.Close()
		return nil, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	if stat.Type != unix.NSFS_MAGIC {
		file.Close()
		return nil, &os.PathError{Op: "open", Path: path, Err: os.ErrNotExist}
	}
	return file, nil
}

// gone is whether an error says that a network namespace has ended.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) }
