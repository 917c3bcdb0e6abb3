package machine

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/cgroups"
)

// runInit is the second stage, a machine's first process for the rest of its life. It
// returns only if the machine cannot be set up.
func runInit(file string) error {
	// No signal but SIGKILL from the host ends a machine.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	s, err := load(file)
	if err != nil {
		return err
	}
	if err := mountRoot(s); err != nil {
		return fmt.Errorf("set up machine %s: %w", s.Name, err)
	}
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("name machine %s: %w", s.Name, err)
	}
	if err := leaveCgroupRoot(); err != nil {
		return fmt.Errorf("set up machine %s: %w", s.Name, err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	log.Info("machine is up", "node", s.Name, "boot", s.BootID)

	children := newChildren()
	go children.reap()
	loader := newImageLoader(children, s.Images != "", log)
	supervisor := newSupervisor(children, loader, log)
	control, err := listenControl(children, supervisor, loader, log)
	if err != nil {
		return err
	}
	if s.Forward != "" {
		// No service shall inherit it.
		unix.CloseOnExec(listenerFD)
		listener, err := net.FileListener(os.NewFile(listenerFD, "forward"))
		if err != nil {
			return fmt.Errorf("forward to %s: %w", s.Forward, err)
		}
		go forward(listener, s.Forward, log)
	}
	for _, service := range s.Services {
		supervisor.start(service)
	}
	if s.Images != "" {
		go loader.loadWhenPossible()
	}
	control.serve()
	return errors.New("control socket closed")
}

// leaveCgroupRoot makes room for kubelet's groups on cgroup v2, where a group with
// processes in it cannot hand controllers to its children: the first process, and with
// it every service, moves one level down.
func leaveCgroupRoot() error {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := os.Mkdir(root+"/init", 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make cgroup for services: %w", err)
	}
	if err := os.WriteFile(root+"/init/cgroup.procs", []byte("1"), 0); err != nil {
		return fmt.Errorf("move services into their cgroup: %w", err)
	}
	return cgroups.Delegate(root)
}

// forward passes connections on to an address that only the machine can reach.
func forward(listener net.Listener, address string, log *slog.Logger) {
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Error("forwarding ends", "address", address, "err", err)
			return
		}
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", address)
			if err != nil {
				// The client sees its connection closed, as it would from a dead server.
				return
			}
			defer server.Close()
			done := make(chan struct{}, 2)
			pipe := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				if half, ok := to.(*net.TCPConn); ok {
					_ = half.CloseWrite()
				}
				done <- struct{}{}
			}
			go pipe(server, client)
			go pipe(client, server)
			<-done
			<-done
		}()
	}
}
