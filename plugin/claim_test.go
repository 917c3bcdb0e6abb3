package plugin

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

func refusal(code int, reason metav1.StatusReason) metav1.Status {
	return metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: string(reason),
	}
}

// The Migration changes between the moment at which the plugin saw it and the
// claim: the claim must be written only where the pod still may claim it.
func TestWriteClaimAfterAChange(t *testing.T) {
	const seenVersion, currentVersion = "7", "8"
	for name, tc := range map[string]struct {
		change func(*v1alpha1.Migration)
		want   string // part of the error, "" for success
	}{
		"something else changed": {func(*v1alpha1.Migration) {}, ""},
		"claimed by this pod":    {claimed("new"), ""},
		"claimed by another pod": {claimed("other"), "pod other has claimed it"},
		"closed":                 {closed, "it was closed as Failed"},
		"made anew":              {func(m *v1alpha1.Migration) { m.UID = "another" }, "replaced by another"},
	} {
		t.Run(name, func(t *testing.T) {
			seen := lost("m", "web-1", "ReplicaSet", "rs")
			seen.ResourceVersion = seenVersion
			current := seen.DeepCopy()
			current.ResourceVersion = currentVersion
			current.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Migration"}
			tc.change(current)
			var written *v1alpha1.Claim
			p, _ := against(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					answer(w, http.StatusOK, current)
					return
				}
				if !strings.HasSuffix(r.URL.Path, "/migrations/m/status") || r.URL.Query().Get("fieldManager") != fieldManager {
					t.Errorf("unexpected %s %s", r.Method, r.URL)
				}
				var patch v1alpha1.Migration
				if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
					t.Error(err)
				}
				if patch.ResourceVersion != current.ResourceVersion || patch.UID != current.UID {
					answer(w, http.StatusConflict, refusal(http.StatusConflict, metav1.StatusReasonConflict))
					return
				}
				written = patch.Status.Claim
				answer(w, http.StatusOK, current)
			})
			_, err := p.writeClaim(t.Context(), seen, successor("web-2", "ReplicaSet", "rs"), "node-b")
			if tc.want == "" {
				if err != nil || written == nil || written.PodUID != "new" || written.PodName != "web-2" || written.NodeName != "node-b" {
					t.Fatalf("wrote %+v with error %v", written, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || written != nil {
				t.Fatalf("wrote %+v with error %v; want nothing written and %q", written, err, tc.want)
			}
		})
	}
}

// Whoever looks at the pod learns where it goes and how long that is expected to
// take, also when only one node could take it, or why it does not go there.
func TestClaimTellsThePod(t *testing.T) {
	for name, tc := range map[string]struct {
		code   int // of the API server's answer
		change func(*v1alpha1.Migration)
		want   string
	}{
		"to a holder": {http.StatusOK, nil,
			"Normal LifeboatClaimed Takes the place of pod web-1, lost with node node-a (migration m): to be restored on node node-b from generation 7 in about 1.9s; 2 of 3 nodes could not take it"},
		"to another node": {http.StatusOK, func(m *v1alpha1.Migration) { m.Status.Checkpoint.Holders = []string{"node-c"} },
			"Normal LifeboatClaimed Takes the place of pod web-1, lost with node node-a (migration m): to be restored on node node-b from generation 7, which other nodes hold, in about 6.1s; 2 of 3 nodes could not take it"},
		"nothing to restore": {http.StatusOK, func(m *v1alpha1.Migration) { m.Status.Checkpoint = nil },
			"Normal LifeboatClaimed Takes the place of pod web-1, lost with node node-a (migration m): starts anew on node node-b, because no node holds a checkpoint"},
		"not written": {http.StatusForbidden, nil,
			"Warning LifeboatClaimFailed Not bound to node node-b, and placed anew: write the claim on Migration shop/m: Forbidden"},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := against(t, func(w http.ResponseWriter, _ *http.Request) {
				if tc.code != http.StatusOK {
					answer(w, tc.code, refusal(tc.code, metav1.StatusReasonForbidden))
					return
				}
				answer(w, http.StatusOK, v1alpha1.Migration{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Migration"}})
			})
			s.nodes["node-b"] = nodeNamed("node-b")
			m := lost("m", "web-1", "ReplicaSet", "rs", func(m *v1alpha1.Migration) {
				m.Status = v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseDeleted, Checkpoint: &v1alpha1.HeldCheckpoint{
					Generation: 7, Bytes: 2 * gibi, Holders: []string{"node-b"},
				}}
			})
			if tc.change != nil {
				tc.change(m)
			}
			pod, state := successor("web-2", "ReplicaSet", "rs"), newCycle()
			state.Write(stateKey, &placement{migration: m, nodes: 3})
			if status := p.Reserve(t.Context(), state, pod, "node-b"); !status.IsSuccess() {
				t.Fatal(status.Message())
			}
			if status := p.PreBind(t.Context(), state, pod, "node-b"); status.IsSuccess() != (tc.code == http.StatusOK) {
				t.Errorf("PreBind says %q", status.Message())
			}
			if got := s.event(); got != tc.want {
				t.Errorf("event %q\n want %q", got, tc.want)
			}
		})
	}
}
