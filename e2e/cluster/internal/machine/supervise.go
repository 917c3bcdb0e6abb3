package machine

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// How long a service waits for what it needs before it is started anyway: a real
	// node's services do not depend on each other being there.
	conditionPatience = 30 * time.Second
	conditionInterval = 50 * time.Millisecond
	restartDelay      = time.Second
)

// A ServiceStatus is how one service does.
type ServiceStatus struct {
	Name     string `json:"name"`
	PID      int    `json:"pid"`      // in the machine's pid namespace; 0: not running
	Restarts int    `json:"restarts"` // how often it has ended by itself
	LastExit int    `json:"lastExit"` // its last exit code; 128 + signal if it was killed
}

// supervisor keeps a machine's services running.
type supervisor struct {
	children *children
	loader   *imageLoader
	log      *slog.Logger

	mu       sync.Mutex
	services []*ServiceStatus
}

func newSupervisor(c *children, l *imageLoader, log *slog.Logger) *supervisor {
	return &supervisor{children: c, loader: l, log: log}
}

// start runs a service from now on.
func (s *supervisor) start(service Service) {
	status := &ServiceStatus{Name: service.Name}
	s.mu.Lock()
	s.services = append(s.services, status)
	s.mu.Unlock()
	go s.keepRunning(service, status)
}

func (s *supervisor) keepRunning(service Service, status *ServiceStatus) {
	log := s.log.With("service", service.Name)
	for _, condition := range service.Wait {
		if err := s.await(condition); err != nil {
			log.Warn("starting without what the service needs", "condition", condition.String(), "err", err)
		}
	}
	for {
		code, err := s.run(service, status)
		if err != nil {
			log.Error("service does not start", "err", err)
			code = 127
		} else {
			log.Warn("service ended and will be started again", "exit", code)
		}
		s.mu.Lock()
		status.PID, status.LastExit = 0, code
		status.Restarts++
		s.mu.Unlock()
		time.Sleep(restartDelay)
	}
}

// run starts the service once and waits for its end.
func (s *supervisor) run(service Service, status *ServiceStatus) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	output, err := os.OpenFile(filepath.Join(logs, service.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer output.Close()
	pid, ended, err := s.children.start(service.Argv, nil, "/", [3]uintptr{null.Fd(), output.Fd(), output.Fd()})
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	status.PID = pid
	s.mu.Unlock()
	return exitCode(<-ended), nil
}

// status tells how the services do, in the order of the Spec.
func (s *supervisor) status() []ServiceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]ServiceStatus, 0, len(s.services))
	for _, service := range s.services {
		list = append(list, *service)
	}
	return list
}

// await returns when the condition is true, or with the last reason why it is not.
func (s *supervisor) await(c Condition) error {
	ctx, cancel := context.WithTimeout(context.Background(), conditionPatience)
	defer cancel()
	if c.Images {
		return s.loader.wait(ctx)
	}
	for {
		err := c.check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(conditionInterval):
		}
	}
}

// check tells why a condition that can be probed is not true yet.
func (c Condition) check(ctx context.Context) error {
	dialer := net.Dialer{Timeout: time.Second}
	switch {
	case c.Socket != "" || c.TCP != "":
		network, address := "unix", c.Socket
		if c.TCP != "" {
			network, address = "tcp", c.TCP
		}
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		return conn.Close()
	default:
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Ready, nil)
		if err != nil {
			return err
		}
		response, err := readinessClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", c.Ready, response.Status)
		}
		return nil
	}
}

// readinessClient asks only whether a server of this cluster answers yet; nothing is
// told to it and nothing that it says is believed, so its certificate does not matter.
var readinessClient = &http.Client{Transport: &http.Transport{
	TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
	DisableKeepAlives: true,
}}
