package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/filelock"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/netns"
)

// Name is the cluster's name.
func (c *Cluster) Name() string { return c.config.Name }

// Kubeconfig is the path of a kubeconfig with all rights, for programs on the host.
func (c *Cluster) Kubeconfig() string { return c.paths.kubeconfig() }

// Kubectl is the path of a kubectl of the cluster's version.
func (c *Cluster) Kubectl() string { return filepath.Join(c.state.Binaries, "kubectl") }

// Logs is the folder with the logs of the cluster's machines, one folder each.
func (c *Cluster) Logs() string { return c.paths.logs() }

// RESTConfig is the configuration for a client with all rights.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.paths.kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("configure client of cluster %s: %w", c.config.Name, err)
	}
	// Tests ask in bursts; the default of 5 requests a second is for shared servers.
	config.QPS, config.Burst = 100, 200
	return config, nil
}

// Dial connects to an address of the cluster, of a pod, a Service or a node, as the
// control plane would. It has the form of net.Dialer's DialContext. Names do not resolve.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial %s in cluster %s: use an IP address and a port: %w", address, c.config.Name, err)
	}
	var conn net.Conn
	err := netns.Do(c.paths.netns(controlPlane), func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// LoadImage loads an image archive into every node: those that are on now, the others
// when they boot. The archive is copied and may be removed afterwards.
func (c *Cluster) LoadImage(ctx context.Context, archive string) error {
	running, err := filelock.WaitShared(ctx, c.paths.lock())
	if err != nil {
		return fmt.Errorf("load image %s: %w", archive, err)
	}
	defer running.Release()
	if !c.alive() {
		return fmt.Errorf("cluster %s: %w", c.config.Name, ErrNotRunning)
	}
	if err := c.addImage(archive); err != nil {
		return err
	}
	var group errgroup.Group
	for number := 1; number <= c.state.Nodes; number++ {
		name := nodeName(number)
		m, err := c.paths.loadMachine(name)
		if err != nil {
			return err
		}
		if !m.Process.Alive() {
			continue
		}
		group.Go(func() error {
			err := m.Process.LoadImages(ctx)
			if err != nil && !m.Process.Alive() {
				// Its power went meanwhile; it loads the image when it is back.
				return nil
			}
			if err != nil {
				return fmt.Errorf("load image %s into %s: %w", archive, name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// addImage puts an archive where the nodes see it. Its file name begins with a number
// that grows, so that a node that was off loads archives in the order in which they
// were added: the last one decides what a name stands for.
func (c *Cluster) addImage(archive string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("add image %s: %w", archive, err)
		}
	}()
	source, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer source.Close()
	copied, err := os.CreateTemp(c.paths.images(), ".adding-")
	if err != nil {
		return err
	}
	defer os.Remove(copied.Name())
	defer copied.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(copied, sum), source); err != nil {
		return err
	}
	if err := errors.Join(copied.Chmod(0o644), copied.Close()); err != nil {
		return err
	}
	present, err := filepath.Glob(c.paths.images() + "/*.tar") // in order of their names
	if err != nil {
		return err
	}
	number, content := 0, hex.EncodeToString(sum.Sum(nil)[:12])
	for i, path := range present {
		var itsContent string
		if _, err := fmt.Sscanf(filepath.Base(path), "%06d-%24s.tar", &number, &itsContent); err != nil {
			return fmt.Errorf("unexpected file %s: %w", path, err)
		}
		if itsContent != content {
			continue
		}
		if i == len(present)-1 {
			return nil
		}
		// It came before others and is to decide again.
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return os.Rename(copied.Name(), filepath.Join(c.paths.images(), fmt.Sprintf("%06d-%s.tar", number+1, content)))
}

// An ExitError is returned by NodeExec for a program that did not end with 0.
type ExitError struct {
	Code   int // 128 + signal if it was killed
	Stderr string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("ended with %d: %s", e.Code, bytes.TrimSpace([]byte(e.Stderr)))
}

// NodeExec runs a program on a node, with all rights there, and returns what it writes
// to standard output. When ctx ends, it is killed with what it has started. If it ends
// with another code than 0, the error is an *ExitError.
func (c *Cluster) NodeExec(ctx context.Context, node string, argv ...string) ([]byte, error) {
	output, err := os.CreateTemp("", "node-exec-")
	if err != nil {
		return nil, fmt.Errorf("run on %s: %w", node, err)
	}
	defer output.Close()
	problems, err := os.CreateTemp("", "node-exec-")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("run on %s: %w", node, err), os.Remove(output.Name()))
	}
	defer problems.Close()
	// Both live on until they are closed.
	if err := errors.Join(os.Remove(output.Name()), os.Remove(problems.Name())); err != nil {
		return nil, fmt.Errorf("run on %s: %w", node, err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("run on %s: %w", node, err)
	}
	defer null.Close()
	code, err := c.NodeExecFiles(ctx, node, null, output, problems, argv...)
	if err != nil {
		return nil, err
	}
	written, err := contentOf(output)
	if err != nil {
		return nil, fmt.Errorf("run on %s: %w", node, err)
	}
	if code != 0 {
		text, err := contentOf(problems)
		if err != nil {
			return written, fmt.Errorf("run on %s: %w", node, err)
		}
		return written, fmt.Errorf("run %v on %s: %w", argv, node, &ExitError{Code: code, Stderr: string(text)})
	}
	return written, nil
}

// NodeExecFiles is NodeExec with the given standard files; it returns the exit code.
func (c *Cluster) NodeExecFiles(ctx context.Context, node string, stdin, stdout, stderr *os.File, argv ...string) (int, error) {
	if node != controlPlane {
		if _, err := c.nodeNumber(node); err != nil {
			return 0, err
		}
	}
	if len(argv) == 0 {
		return 0, fmt.Errorf("run on %s: no program given", node)
	}
	m, err := c.paths.loadMachine(node)
	if err != nil {
		return 0, fmt.Errorf("run on %s: %w", node, err)
	}
	code, err := m.Process.Exec(ctx, stdin, stdout, stderr, argv, nil)
	if err != nil {
		return code, fmt.Errorf("run %s on %s: %w", argv[0], node, err)
	}
	return code, nil
}

func contentOf(f *os.File) ([]byte, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}
