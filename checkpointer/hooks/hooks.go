// Package hooks calls the hooks of pods: commands in their containers, and HTTP
// requests from within their network. A hook never takes longer than its timeout, and
// of what it prints the end is kept.
package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
)

// Container is a running container of a pod, as its node sees it.
type Container struct {
	Name string
	// ID is the container's in runc, and RuncRoot where runc keeps its state.
	ID, RuncRoot string
	// Pid is its first process.
	Pid int
	// PodIP is asked where nothing listens on the pod's own loopback address.
	PodIP string
}

// Caller calls hooks on one node.
type Caller struct {
	Host criu.Host
	// Folder is for files of commands that run; on the node it has the same path.
	Folder string
}

// Call calls a hook by name, and waits until it ends or its timeout is over. An HTTP
// hook is a POST request without a body; every status from 200 to 299 is a success.
func (c Caller) Call(ctx context.Context, name string, hook *v1alpha1.Hook, in Container) v1alpha1.HookResult {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, hook.Timeout, fmt.Errorf("it took longer than its timeout of %s", hook.Timeout))
	defer cancel()
	var output tail
	var err error
	if hook.Command != nil {
		err = c.exec(ctx, &output, hook.Command, in)
	} else {
		err = c.request(ctx, &output, hook, in)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return Result(name, in.Name, output.String(), time.Since(began), err)
}

// Result is what came of calling a hook. An error is told at the end of the output.
func Result(name, container, output string, took time.Duration, err error) v1alpha1.HookResult {
	if err != nil {
		output = strings.TrimSpace(output + "\n" + err.Error())
	}
	return v1alpha1.HookResult{Name: name, Container: container, Succeeded: err == nil, Output: last(output), Seconds: took.Seconds()}
}

// exec runs a command in the container as "kubectl exec" does.
func (c Caller) exec(ctx context.Context, output io.Writer, command []string, in Container) error {
	if err := os.MkdirAll(c.Folder, 0o700); err != nil {
		return fmt.Errorf("make a folder for the hook: %w", err)
	}
	pidFile := filepath.Join(c.Folder, in.ID+".pid")
	defer os.Remove(pidFile)
	args := append([]string{"--root", in.RuncRoot, "exec", "--pid-file", pidFile, in.ID}, command...)
	err := c.Host.Exec(ctx, output, "runc", args...)
	if err != nil && ctx.Err() != nil {
		// The end of runc does not end what it has started.
		err = errors.Join(err, kill(pidFile))
	}
	return err
}

// kill ends the process that a file names.
func kill(pidFile string) error {
	content, err := os.ReadFile(pidFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it had not begun
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("runc names %q as the hook's process", content)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end the hook's process %d: %w", pid, err)
	}
	return nil
}

func (c Caller) request(ctx context.Context, output io.Writer, hook *v1alpha1.Hook, in Container) error {
	response, err := c.Do(ctx, http.MethodPost, hook, in, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(output, response.Body); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

// Do makes an HTTP request to a port of the pod, from within its network. The caller
// closes the answer's body. An answer that is no success is an error, with the end of
// its body.
func (c Caller) Do(ctx context.Context, method string, hook *v1alpha1.Hook, in Container, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://localhost:%d%s", hook.Port, hook.Path), body)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext:       podNetwork{c.Host.ProcRoot, in.Pid, in.PodIP}.dial,
		DisableKeepAlives: true, // the pod may be stopped next
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	defer response.Body.Close()
	var output tail
	_, _ = io.Copy(&output, io.LimitReader(response.Body, 1<<20))
	return nil, fmt.Errorf("%s http %d%s was answered with %s: %s", method, hook.Port, hook.Path, response.Status, output.String())
}
