// Package objectstore runs a real S3 server, versitygw, whose objects are files of a folder.
package objectstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/binaries"
)

// The only user that the server knows, who may do everything.
const (
	AccessKey = "lifeboat"
	SecretKey = "lifeboat-secret"
)

// Region is where the server says that it is.
const Region = "us-east-1"

// startTimeout bounds how long the server may take, on a busy machine, to answer.
const startTimeout = 30 * time.Second

// Options of a server.
type Options struct {
	// Dir is where its objects lie. It outlives the server.
	Dir string
	// Address is where it listens; a free port of the loopback interface when empty.
	Address string
	// Certificate and Key are PEM files; with them the server speaks TLS.
	Certificate, Key string
	// ReadOnly makes it deny every write.
	ReadOnly bool
	// Bytes, when it is not 0, puts Dir on a memory file system of this size, which only the
	// server sees and which ends with it.
	Bytes int64
	// Progress is told when the server has to be built first.
	Progress func(step string)
}

// A Server runs until Stop, or the end of the process that started it.
type Server struct {
	options Options
	command *exec.Cmd
	output  bytes.Buffer
	ended   chan struct{} // closed when the process has ended
}

// Start starts a server, and waits until it answers. The working folder must lie in the
// Lifeboat repository.
func Start(ctx context.Context, options Options) (*Server, error) {
	if options.Progress == nil {
		options.Progress = func(string) {}
	}
	program, err := binaries.S3Server(ctx, options.Progress)
	if err != nil {
		return nil, err
	}
	if options.Address == "" {
		if options.Address, err = freeAddress(ctx); err != nil {
			return nil, fmt.Errorf("start the S3 server: %w", err)
		}
	}
	s := &Server{options: options, ended: make(chan struct{})}
	if err := s.start(program); err != nil {
		return nil, fmt.Errorf("start the S3 server: %w", err)
	}
	if err := s.wait(ctx); err != nil {
		s.Stop()
		return nil, fmt.Errorf("start the S3 server: %w\n%s", err, s.output.Bytes())
	}
	return s, nil
}

func (s *Server) start(program string) error {
	o := s.options
	arguments := []string{program, "--port", o.Address, "--access", AccessKey, "--secret", SecretKey, "--region", Region,
		"--keep-alive", "--quiet", "--health", "/health"}
	if o.Certificate != "" {
		arguments = append(arguments, "--cert", o.Certificate, "--key", o.Key)
	}
	if o.ReadOnly {
		arguments = append(arguments, "--readonly")
	}
	arguments = append(arguments, "posix", o.Dir)
	attributes := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if o.Bytes != 0 {
		attributes.Unshareflags = syscall.CLONE_NEWNS
		arguments = append([]string{"sh", "-c", `mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"`, "sh", strconv.FormatInt(o.Bytes, 10), o.Dir}, arguments...)
	}
	//nolint:noctx // Stop ends it: the context of the start does not
	s.command = exec.Command(arguments[0], arguments[1:]...)
	s.command.Stdout, s.command.Stderr = &s.output, &s.output
	s.command.SysProcAttr = attributes
	started := make(chan error)
	go func() {
		// Pdeathsig follows the thread that starts the program, so it must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.command.Start()
		started <- err
		if err != nil {
			return
		}
		_ = s.command.Wait() // Stop kills it
		close(s.ended)
	}()
	return <-started
}

// wait returns when the server answers.
func (s *Server) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	dialer := &net.Dialer{}
	transport := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}
	client := &http.Client{Transport: transport}
	for {
		var err error
		if s.options.Certificate == "" {
			err = healthy(ctx, client, "http://"+s.options.Address+"/health")
		} else {
			// Who wants TLS brings the authority too: here it is enough that somebody listens.
			var conn net.Conn
			if conn, err = dialer.DialContext(ctx, "tcp", s.options.Address); err == nil {
				conn.Close()
			}
		}
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return errors.New("it ended")
		case <-ctx.Done():
			return fmt.Errorf("it does not answer within %s: %w", startTimeout, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func healthy(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// Address is where the server listens.
func (s *Server) Address() string { return s.options.Address }

// Stop kills the server, as a loss of power would, and waits until it is gone.
func (s *Server) Stop() {
	s.command.Process.Kill()
	<-s.ended
}

// Pause stops the server's process: its connections stay, and nobody answers. Continue ends that.
func (s *Server) Pause() error { return s.command.Process.Signal(syscall.SIGSTOP) }

// Continue lets a paused server go on.
func (s *Server) Continue() error { return s.command.Process.Signal(syscall.SIGCONT) }

// MakeBucket makes a bucket.
func (s *Server) MakeBucket(ctx context.Context, name string) error {
	client, err := minio.New(s.options.Address, &minio.Options{Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Region: Region})
	if err != nil {
		return err
	}
	if err := client.MakeBucket(ctx, name, minio.MakeBucketOptions{}); err != nil {
		return fmt.Errorf("make bucket %s: %w", name, err)
	}
	return nil
}

// File is the file that an object lies in, unless the server has a file system of its own.
func (s *Server) File(bucket, object string) string {
	return filepath.Join(s.options.Dir, bucket, filepath.FromSlash(object))
}

// Output is what the server has written; only after Stop.
func (s *Server) Output() string { return s.output.String() }

func freeAddress(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}
