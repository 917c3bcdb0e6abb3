package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	goruntime "runtime"
	"syscall"
)

// inNamespace calls do on a thread that has entered the namespace at path. The
// thread ends with it.
func inNamespace(path string, do func() error) error {
	result := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		ns, err := os.Open(path)
		if err != nil {
			result <- err
			return
		}
		defer ns.Close()
		if _, _, errno := syscall.RawSyscall(sysSetns, ns.Fd(), 0, 0); errno != 0 {
			result <- fmt.Errorf("enter %s: %w", path, errno)
			return
		}
		result <- do()
	}()
	return <-result
}

// mptcpSwitch turns MPTCP on and off for a network namespace.
const mptcpSwitch = "/proc/sys/net/mptcp/enabled"

// disableMPTCP has programs in the network namespace get plain TCP where they
// ask for MPTCP, as those of Go do from 1.24 on: CRIU cannot dump MPTCP sockets.
func disableMPTCP(netNS string) error {
	err := inNamespace(netNS, func() error {
		file, err := os.OpenFile(mptcpSwitch, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = file.WriteString("0")
		return errors.Join(err, file.Close())
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without MPTCP
	}
	return err
}

// hostname is the host name in a UTS namespace.
func hostname(utsNS string) (string, error) {
	var name string
	err := inNamespace(utsNS, func() (err error) {
		name, err = os.Hostname()
		return err
	})
	return name, err
}

// setHostname gives a UTS namespace its host name.
func setHostname(utsNS, name string) error {
	return inNamespace(utsNS, func() error { return syscall.Sethostname([]byte(name)) })
}
