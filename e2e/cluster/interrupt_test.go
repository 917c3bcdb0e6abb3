package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// starterVariable makes this program start the cluster that it names, instead of testing.
const starterVariable = "LIFEBOAT_TEST_START"

// bootStep is the first step of a start that makes something outside the cache.
const bootStep = "booting"

func TestClusterStartInterrupted(t *testing.T) {
	for _, after := range []time.Duration{0, 30 * time.Millisecond, 150 * time.Millisecond, 700 * time.Millisecond, 3 * time.Second, 5 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			config := testConfig(t, "test-interrupt", 2)
			before := lookAtHost(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			config.Progress = func(step string) {
				if strings.HasPrefix(step, bootStep) {
					time.AfterFunc(after, cancel)
				}
			}
			c, err := Start(ctx, config)
			if err == nil {
				// It was faster than the interruption.
				if err := c.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else if !errors.Is(err, context.Canceled) {
				t.Errorf("Start: %v, want that it was cancelled", err)
			}
			wantNothingLeft(t, config)
			if after := lookAtHost(t); after != before {
				t.Errorf("the host was\n%+v\nand is\n%+v", before, after)
			}
		})
	}
}

func TestClusterStarterKilled(t *testing.T) {
	const name = "test-killed"
	for _, after := range []time.Duration{0, 100 * time.Millisecond, 2 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			config := testConfig(t, name, 1)
			starter := exec.CommandContext(t.Context(), "/proc/self/exe")
			starter.Env = append(os.Environ(), starterVariable+"="+name)
			output, err := starter.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := starter.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(output)
			for lines.Scan() && !strings.HasPrefix(lines.Text(), bootStep) {
			}
			time.Sleep(after) // at different moments of the start, whatever they are
			if err := starter.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := starter.Wait(); err == nil {
				t.Fatal("the starter ended by itself")
			}
			c, err := Start(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			if got := kubectl(t, c, "get", "nodes", "--output=name"); got != "node/n1" {
				t.Errorf("nodes: %q", got)
			}
			if err := c.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantNothingLeft(t, config)
		})
	}
}

// TestMain makes this program the one that TestClusterStarterKilled kills, if it is told to.
func TestMain(m *testing.M) {
	if name := os.Getenv(starterVariable); name != "" {
		_, err := Start(context.Background(), Config{Name: name, Nodes: 1, Progress: func(step string) { fmt.Println(step) }})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		// To be killed while its cluster runs.
		select {}
	}
	os.Exit(m.Run())
}

func TestClusterStartedTwice(t *testing.T) {
	config := testConfig(t, "test-twice", 1)
	booting := make(chan struct{})
	first := config
	first.Progress = func(step string) {
		if strings.HasPrefix(step, bootStep) {
			close(booting)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Start(ctx, first)
		ended <- err
	}()
	<-booting
	_, err := Start(t.Context(), config)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("second Start: %v, want one that names this process", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("first Start: %v", err)
	}
	wantNothingLeft(t, config)
}
