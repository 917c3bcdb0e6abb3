package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
)

// TestPublish plays what befalls a node, on a clock of its own, and looks at what
// is written when.
func TestPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		since := func() time.Duration { return time.Since(began) }
		// An earlier boot said that it shuts down; the facts are another's to write.
		status := v1alpha1.FenceStatus{ShuttingDown: &metav1.MicroTime{Time: began.Add(-time.Hour)},
			Facts: v1alpha1.NodeFacts{CRIUVersion: "4.2.1"}}
		type written struct {
			At           time.Duration
			Memory       int32
			ShuttingDown time.Duration // since when; -1: not
		}
		var writes []written
		p := publisher{
			log: slog.New(slog.DiscardHandler),
			load: func() v1alpha1.NodeLoad {
				load := v1alpha1.NodeLoad{MemoryAvailableBytes: 1 << 30}
				switch at := since(); {
				case at >= 60*time.Second && at < 62*time.Second: // a burst in a quiet time
					load.MemoryPressure = 30
				case at >= 100*time.Second && at < 130*time.Second: // up and down all the time
					load.MemoryPressure = int32(at.Seconds()) % 4 * 20
				}
				return load
			},
			shutdown: func() bool { return since() >= 200*time.Second && since() < 220*time.Second },
			write: func(_ context.Context, change func(*v1alpha1.FenceStatus)) error {
				if since() < 3*time.Second {
					return errors.New("the fencer has not made the record yet")
				}
				change(&status)
				w := written{At: since(), Memory: status.Load.MemoryPressure, ShuttingDown: -1}
				if status.ShuttingDown != nil {
					w.ShuttingDown = status.ShuttingDown.Sub(began)
				}
				writes = append(writes, w)
				return nil
			},
		}
		ended := make(chan struct{})
		go func() { defer close(ended); p.run(ctx) }()
		time.Sleep(5 * time.Minute)
		cancel()
		<-ended

		s := time.Second
		want := []written{{4 * s, 0, -1}, {60 * s, 30, -1}, {70 * s, 0, -1}, {102 * s, 40, -1}, {112 * s, 0, -1}, {122 * s, 40, -1},
			{132 * s, 0, -1}, {200 * s, 0, 200 * s}, {220 * s, 0, -1}}
		if diff := cmp.Diff(want, writes); diff != "" {
			t.Errorf("written (-want +got):\n%s", diff)
		}
		if status.Facts.CRIUVersion != "4.2.1" {
			t.Error("another part of the status was overwritten")
		}
	})
}

func TestChangedMuch(t *testing.T) {
	told := v1alpha1.NodeLoad{CPUPressure: 20, MemoryPressure: 20, IOPressure: 20, MemoryAvailableBytes: 1000}
	for name, tc := range map[string]struct {
		now  v1alpha1.NodeLoad
		want bool
	}{
		"nothing":            {told, false},
		"a little of each":   {v1alpha1.NodeLoad{CPUPressure: 29, MemoryPressure: 11, IOPressure: 29, MemoryAvailableBytes: 901}, false},
		"more for the CPU":   {v1alpha1.NodeLoad{CPUPressure: 30, MemoryPressure: 20, IOPressure: 20, MemoryAvailableBytes: 1000}, true},
		"less for memory":    {v1alpha1.NodeLoad{CPUPressure: 20, MemoryPressure: 10, IOPressure: 20, MemoryAvailableBytes: 1000}, true},
		"more for the disks": {v1alpha1.NodeLoad{CPUPressure: 20, MemoryPressure: 20, IOPressure: 30, MemoryAvailableBytes: 1000}, true},
		"less memory":        {v1alpha1.NodeLoad{CPUPressure: 20, MemoryPressure: 20, IOPressure: 20, MemoryAvailableBytes: 900}, true},
		"more memory":        {v1alpha1.NodeLoad{CPUPressure: 20, MemoryPressure: 20, IOPressure: 20, MemoryAvailableBytes: 1100}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := changedMuch(told, tc.now); got != tc.want {
				t.Errorf("got %t, want %t", got, tc.want)
			}
		})
	}
	if changedMuch(v1alpha1.NodeLoad{}, v1alpha1.NodeLoad{}) {
		t.Error("a kernel that tells nothing is written again and again")
	}
}

func TestReadLoad(t *testing.T) {
	const meminfo = "MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:    2097152 kB\n"
	for name, tc := range map[string]struct {
		files map[string]string
		want  v1alpha1.NodeLoad
	}{
		"a busy node": {
			files: map[string]string{
				"pressure/cpu":    "some avg10=91.50 avg60=1.00 avg300=0.10 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
				"pressure/memory": "some avg10=41.49 avg60=1.00 avg300=0.10 total=1\nfull avg10=12.00 avg60=0.00 avg300=0.00 total=0\n",
				"pressure/io":     "some avg10=0.40 avg60=1.00 avg300=0.10 total=1\n", "meminfo": meminfo,
			},
			want: v1alpha1.NodeLoad{CPUPressure: 92, MemoryPressure: 41, IOPressure: 0, MemoryAvailableBytes: 2 << 30},
		},
		"a kernel without pressure stall information": {
			files: map[string]string{"meminfo": meminfo}, want: v1alpha1.NodeLoad{MemoryAvailableBytes: 2 << 30},
		},
		"figures that cannot be": {
			files: map[string]string{"pressure/cpu": "some avg10=NaN\n", "pressure/io": "some avg10=400\n", "pressure/memory": "some avg10=-1\n",
				"meminfo": "MemAvailable: -5 kB\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			for path, content := range tc.files {
				write(t, filepath.Join(proc, path), content)
			}
			if diff := cmp.Diff(tc.want, readLoad(proc)); diff != "" {
				t.Errorf("load (-want +got):\n%s", diff)
			}
		})
	}
	if readAvailable("/proc") == 0 {
		t.Error("this machine's available memory is not found")
	}
}

func TestShutdownScheduled(t *testing.T) {
	host := criu.Host{Root: t.TempDir()}
	if shutdownScheduled(host) {
		t.Error("a shutdown without systemd")
	}
	write(t, filepath.Join(host.Root, "run/systemd/shutdown/scheduled"), "USEC=1767268800000000\nWARN_WALL=1\nMODE=poweroff\n")
	if !shutdownScheduled(host) {
		t.Error("a scheduled shutdown is not seen")
	}
}

func TestEndedByNode(t *testing.T) {
	running, deleted := corev1.Pod{}, corev1.Pod{}
	deleted.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	for name, tc := range map[string]struct {
		pods []corev1.Pod
		want bool
	}{
		"ended by the kubelet or by systemd": {[]corev1.Pod{running}, true},
		"updated or drained":                 {[]corev1.Pod{deleted}, false},
		"updated, the next one waits":        {[]corev1.Pod{running, deleted}, false},
		"not in a pod":                       {nil, false},
	} {
		if got := endedByNode(slices.Clone(tc.pods)); got != tc.want {
			t.Errorf("%s: got %t, want %t", name, got, tc.want)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
