package migrate

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/apimachinery/pkg/types"

	peerv1 "github.com/lifeboat-dev/lifeboat/api/peer/v1"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestHolders: of a thousand nodes, those that are known to hold a pod's generations
// decide how long it takes to know the newest one; where they do not have what was
// reported, all are waited for.
func TestHolders(t *testing.T) {
	const nodes, each = 1000, 50 * time.Millisecond
	everybody := nodes / questionsAtOnce * each
	for name, tc := range map[string]struct {
		sought  Sought
		held    map[string]int64 // by node
		silent  string
		want    int64
		holders []string
		took    string
	}{
		"as reported":            {Sought{Generation: 7, Nodes: []string{"lost", "n900", "n950"}}, map[string]int64{"n900": 7, "n950": 7}, "", 7, []string{"n900", "n950"}, "soon"},
		"newer than reported":    {Sought{Generation: 7, Nodes: []string{"n900"}}, map[string]int64{"n900": 9}, "", 9, []string{"n900"}, "soon"},
		"one holder is silent":   {Sought{Generation: 7, Nodes: []string{"n900", "n950"}}, map[string]int64{"n900": 7, "n950": 7}, "n950", 7, []string{"n900"}, "soon after the silent one"},
		"older than reported":    {Sought{Generation: 7, Nodes: []string{"n900"}}, map[string]int64{"n900": 6, "n999": 8}, "", 8, []string{"n999"}, "some time"},
		"nothing was reported":   {Sought{}, map[string]int64{"n999": 3}, "", 3, []string{"n999"}, "all"},
		"nobody holds it":        {Sought{Generation: 7, Nodes: []string{"n900"}}, nil, "", 0, nil, "all"},
		"the only one is silent": {Sought{Generation: 7, Nodes: []string{"n900"}}, map[string]int64{"n900": 7}, "n900", 0, nil, "all"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := NewHolders(nil, slog.New(slog.DiscardHandler))
				h.held = func(ctx context.Context, address, _ string, _ types.UID) ([]*peerv1.Generation, error) {
					wait := each
					if address == tc.silent {
						wait = holderTimeout
					}
					select {
					case <-time.After(wait):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if n, ok := tc.held[address]; ok && address != tc.silent {
						return []*peerv1.Generation{{Number: n, TakenAt: timestamppb.Now()}}, nil
					}
					if address == tc.silent {
						return nil, context.DeadlineExceeded
					}
					return nil, nil
				}
				fences := []v1alpha1.Fence{fenceAt("lost", v1alpha1.FenceFenced)}
				for i := range nodes {
					fences = append(fences, fenceAt(fmt.Sprintf("n%d", i), v1alpha1.FenceRunning))
				}
				begin := time.Now()
				got := h.Newest(t.Context(), tc.sought, fences)
				took := time.Since(begin)
				if tc.want == 0 {
					if got != nil {
						t.Errorf("found %+v", got)
					}
				} else if got == nil || got.Generation != tc.want || !slices.Equal(got.Holders, tc.holders) {
					t.Errorf("found %+v, want generation %d of %v", got, tc.want, tc.holders)
				}
				limits := map[string][2]time.Duration{
					"soon": {0, each + othersTime}, "soon after the silent one": {0, holderTimeout + othersTime},
					"all": {everybody, time.Hour}, "some time": {0, time.Hour},
				}[tc.took]
				if took < limits[0] || took > limits[1] {
					t.Errorf("it took %s, want from %s to %s", took, limits[0], limits[1])
				}
			})
		})
	}
}

func fenceAt(node string, state v1alpha1.FenceState) v1alpha1.Fence {
	f := v1alpha1.Fence{}
	f.Name, f.Spec.State, f.Status.Facts.PeerAddress = node, state, node
	return f
}
