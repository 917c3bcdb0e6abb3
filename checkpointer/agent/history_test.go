package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
)

func TestHistory(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	filled := func(bytes int64, took time.Duration) pages.Stats {
		return pages.Stats{FaultBytes: bytes / 4, DrainedBytes: bytes - bytes/4, Attached: start, Restored: start.Add(took / 2), Done: start.Add(took)}
	}
	failure := func(minute int, reason string) v1alpha1.RestoreFailure {
		return v1alpha1.RestoreFailure{At: metav1.NewTime(start.Add(time.Duration(minute) * time.Minute)), Reason: reason}
	}
	h := newHistory()
	check := func(after string, now time.Time, want *v1alpha1.RestoreHistory) {
		t.Helper()
		if diff := cmp.Diff(want, h.status(now)); diff != "" {
			t.Errorf("after %s: %s", after, diff)
		}
	}
	check("nothing", start, nil)
	h.filled(true, filled(leastFilled-1, time.Second))
	h.filled(true, pages.Stats{DrainedBytes: 1 << 30, Done: start})
	check("what shows nothing", start, nil)
	h.filled(true, filled(1<<30, 500*time.Millisecond))
	check("one from the own store", start, &v1alpha1.RestoreHistory{LocalBytesPerSecond: 2 << 30})
	h.filled(true, filled(1<<30, time.Second))
	h.filled(false, filled(100e6, time.Second))
	rates := v1alpha1.RestoreHistory{LocalBytesPerSecond: 1825361100, RemoteBytesPerSecond: 100e6} // 0.3·1 GiB/s + 0.7·2 GiB/s
	check("three", start, &rates)

	for minute := range 10 {
		h.failed(start.Add(time.Duration(minute)*time.Minute), "RestoreFailed")
	}
	want := rates
	for minute := 9; minute > 1; minute-- {
		want.Failures = append(want.Failures, failure(minute, "RestoreFailed"))
	}
	check("ten failures", start.Add(10*time.Minute), &want)
	want.Failures = want.Failures[:2]
	check("an hour", start.Add(67*time.Minute+time.Second), &want)

	later := newHistory()
	later.failed(start.Add(68*time.Minute), "CheckpointDamaged")
	later.resume(&want)
	want.Failures = append([]v1alpha1.RestoreFailure{failure(68, "CheckpointDamaged")}, want.Failures...)
	if diff := cmp.Diff(&want, later.status(start.Add(68*time.Minute))); diff != "" {
		t.Errorf("a later checkpointer: %s", diff)
	}
}

// criServer answers with a status.
type criServer struct {
	cri.RuntimeServiceClient
	status *cri.StatusResponse
	err    error
}

func (s criServer) Status(_ context.Context, request *cri.StatusRequest, _ ...grpc.CallOption) (*cri.StatusResponse, error) {
	if !request.Verbose {
		s.status.Info = nil
	}
	return s.status, s.err
}

func TestHandlers(t *testing.T) {
	config := func(text string) map[string]string { return map[string]string{"config": text} }
	for name, tc := range map[string]struct {
		server criServer
		want   []string
		error  bool
	}{
		"told": {criServer{status: &cri.StatusResponse{
			RuntimeHandlers: []*cri.RuntimeHandler{{Name: ""}, {Name: "runc"}, {Name: "lifeboat"}},
			Info:            config(`{"containerd":{"runtimes":{"other":{}}}}`),
		}}, []string{"lifeboat", "runc"}, false},
		"by its configuration": {criServer{status: &cri.StatusResponse{
			Info: config(`{"containerd":{"defaultRuntimeName":"runc","runtimes":{"runc":{"runtimeType":"io.containerd.runc.v2"},"lifeboat":{}}}}`),
		}}, []string{"lifeboat", "runc"}, false},
		"not told":                {criServer{status: &cri.StatusResponse{}}, nil, false},
		"a configuration of what": {criServer{status: &cri.StatusResponse{Info: config("?")}}, nil, true},
		"no answer":               {criServer{err: errors.New("no containerd")}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := (&containers{runtime: tc.server}).handlers(t.Context())
			if diff := cmp.Diff(tc.want, got); diff != "" || (err != nil) != tc.error {
				t.Errorf("error %v, handlers: %s", err, diff)
			}
		})
	}
}
