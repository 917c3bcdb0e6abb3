package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
)

// fillerProgram is where the node and its containers have the filler.
const (
	fillerFile    = "filler"
	fillerProgram = "/filler"
	fillerAddress = "127.0.0.1:8080"
	containerName = "main"
)

const (
	// readyTime bounds how long a workload may take to fill its memory.
	readyTime = 3 * time.Minute
	// pollDialTime is short: where a restore drops the first packet, the next must
	// not wait until TCP tries again.
	pollDialTime = 20 * time.Millisecond
	dialTime     = 10 * time.Second
	answerTime   = time.Minute
	pollTime     = time.Millisecond
)

// subject is a container that is measured.
type subject struct {
	workload
	pod       *nodetest.Pod
	container *nodetest.Container
	// versions has the pages that were rewritten, rewrites how often any were.
	versions map[uint64]uint64
	rewrites uint64
}

// attempt calls what ends by T's Fatal, and returns that as an error.
func attempt(do func(t nodetest.T)) error {
	a := &attempted{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(a)
	}()
	<-done
	return a.err
}

type attempted struct{ err error }

func (a *attempted) Helper() {}

func (a *attempted) Fatal(args ...any) { a.Fatalf("%s", fmt.Sprint(args...)) }

func (a *attempted) Fatalf(format string, args ...any) {
	a.err = fmt.Errorf(format, args...)
	runtime.Goexit()
}

// made counts pods: each has a name of its own.
var made int

// newSubject readies a pod with the container for a workload, which does not run yet.
func newSubject(w workload) (*subject, error) {
	made++
	s := &subject{workload: w, versions: map[uint64]uint64{}}
	spec := nodetest.Spec{Files: map[string]string{fillerProgram: filepath.Join(nodetest.Disk, fillerFile)}}
	if w.Redis {
		spec.Command = append([]string{fillerProgram, "beside"}, redisCommand...)
	} else {
		how := "fill"
		if w.Shared {
			how = "share"
		}
		spec.Command = []string{fillerProgram, how, string(w.Content), strconv.FormatInt(w.Bytes, 10)}
	}
	err := attempt(func(t nodetest.T) {
		s.pod = nodetest.NewPod(t, fmt.Sprintf("bench-%d", made), fmt.Sprintf("bench-%d", made))
		s.container = s.pod.NewContainer(t, fmt.Sprintf("bench-%d", made), containerName, spec)
	})
	if err != nil {
		return nil, fmt.Errorf("make a container: %w", err)
	}
	return s, nil
}

// start runs the container, and waits until its memory is filled.
func (s *subject) start(ctx context.Context) error {
	if err := attempt(s.container.Start); err != nil {
		return fmt.Errorf("start a container: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	if _, err := s.firstAnswer(ctx, "gap", func([]byte) error { return nil }); err != nil {
		return fmt.Errorf("%s does not get ready: %w: %s", s.workload, err, strings.Join(s.container.Output.Lines(), " | "))
	}
	if s.Redis {
		return s.loadRedis(ctx)
	}
	return nil
}

// remove ends the container.
func (s *subject) remove() error {
	return attempt(s.container.Delete)
}

// target is the pod as the engine is told of it.
func (s *subject) target() (criu.PodTarget, error) {
	var pid int
	if err := attempt(func(t nodetest.T) { pid = s.container.Pid(t) }); err != nil {
		return criu.PodTarget{}, fmt.Errorf("find the container's process: %w", err)
	}
	return criu.PodTarget{
		Namespace: s.pod.Namespace, Name: s.pod.Name, UID: s.pod.UID, EmptyDirs: s.pod.EmptyDirs, ShmDir: s.pod.Shm, Hostname: s.pod.Name,
		Containers: []criu.Target{{
			Container: client.Container{
				ID: s.container.ID, Name: s.container.Name, Namespace: s.pod.Namespace, PodName: s.pod.Name, PodUID: s.pod.UID, SandboxID: s.pod.SandboxID,
			},
			Pid: pid, BundleDir: s.container.Bundle, RuncStateDir: filepath.Join(nodetest.RuncRoot, s.container.ID),
		}},
	}, nil
}

// ask sends one line to the workload, and returns its whole answer. No connection
// is open any more when it returns: runc's checkpoint refuses those.
func (s *subject) ask(ctx context.Context, line string) (answer []byte, err error) {
	err = s.pod.In(unix.CLONE_NEWNET, func() error {
		answer, err = askOnce(ctx, line, dialTime)
		return err
	})
	return answer, err
}

func askOnce(ctx context.Context, line string, limit time.Duration) ([]byte, error) {
	conn, err := (&net.Dialer{Timeout: limit}).DialContext(ctx, "tcp4", fillerAddress)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	conn.SetDeadline(time.Now().Add(answerTime))
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && bytes.HasPrefix(answer, []byte("error:")) {
		err = fmt.Errorf("the workload says: %s", bytes.TrimSpace(answer))
	}
	return answer, err
}

// firstAnswer asks until it gets an answer, and returns when that was. A wrong
// answer is an error: it does not get right by asking again.
func (s *subject) firstAnswer(ctx context.Context, line string, check func([]byte) error) (at time.Time, err error) {
	err = s.pod.In(unix.CLONE_NEWNET, func() error {
		for {
			answer, failed := askOnce(ctx, line, pollDialTime)
			if failed == nil && len(answer) > 0 {
				at = time.Now()
				return check(answer)
			}
			select {
			case <-ctx.Done():
				return errors.Join(ctx.Err(), failed)
			case <-time.After(pollTime):
			}
		}
	})
	return at, err
}

// gap returns for how long, at the longest, the workload has not run since the last call.
func (s *subject) gap(ctx context.Context) (time.Duration, error) {
	answer, err := s.ask(ctx, "gap")
	if err != nil {
		return 0, fmt.Errorf("ask the probe: %w", err)
	}
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(string(answer)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("ask the probe: %w", err)
	}
	return time.Duration(nanoseconds), nil
}

// rewrite has the workload rewrite a share of its pages, in percent.
func (s *subject) rewrite(ctx context.Context, percent int) error {
	if percent == 0 || s.Redis {
		return nil
	}
	s.rewrites++
	count := s.pages() * uint64(percent) / 100
	if _, err := s.ask(ctx, fmt.Sprintf("rewrite %d %d", s.rewrites, count)); err != nil {
		return fmt.Errorf("rewrite %d pages: %w", count, err)
	}
	for number := range content.Sample(s.rewrites, s.pages(), count) {
		s.versions[number] = s.rewrites
	}
	return nil
}

// question is a request for some pages at random.
type question struct {
	pages    []uint64
	versions map[uint64]uint64
	kind     content.Kind
}

// question returns a request for pages, of which half were rewritten if any were.
func (s *subject) question(count int) question {
	q := question{versions: s.versions, kind: s.Content}
	for number := range s.versions { // in an order that is random enough
		if len(q.pages) == count/2 {
			break
		}
		q.pages = append(q.pages, number)
	}
	for len(q.pages) < count {
		q.pages = append(q.pages, rand.Uint64N(s.pages()))
	}
	return q
}

func (q question) line() string {
	var line strings.Builder
	line.WriteString("read")
	for _, number := range q.pages {
		fmt.Fprintf(&line, " %d", number)
	}
	return line.String()
}

// check compares an answer with what must be in the pages.
func (q question) check(answer []byte) error {
	if len(answer) != len(q.pages)*content.PageSize {
		return fmt.Errorf("the workload answers with %d bytes for %d pages", len(answer), len(q.pages))
	}
	want := make([]byte, content.PageSize)
	for i, number := range q.pages {
		q.kind.Fill(want, number, q.versions[number])
		if !bytes.Equal(want, answer[i*content.PageSize:][:content.PageSize]) {
			return fmt.Errorf("page %d of the restored memory is wrong: it is not its version %d", number, q.versions[number])
		}
	}
	return nil
}

// resident is the resident memory of the container's processes, in bytes.
func (s *subject) resident() (int64, error) {
	var processes struct {
		Pids []int `json:"pids"`
	}
	raw, err := output("runc", "--root", nodetest.RuncRoot, "ps", "--format", "json", s.container.ID)
	if err == nil {
		err = json.Unmarshal(raw, &processes.Pids)
	}
	if err != nil {
		return 0, fmt.Errorf("list the container's processes: %w", err)
	}
	var kilobytes int64
	for _, pid := range processes.Pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, fmt.Errorf("read the container's memory: %w", err)
		}
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
				if err != nil {
					return 0, fmt.Errorf("read the container's memory: %w", err)
				}
				kilobytes += n
			}
		}
	}
	return kilobytes << 10, nil
}
