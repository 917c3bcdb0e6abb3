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
