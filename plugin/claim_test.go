package plugin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// against is a plugin with an empty cache whose API server is the handler.
func against(t *testing.T, handler http.HandlerFunc) *Lifeboat {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := newClient(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return &Lifeboat{
		client: c, claims: newClaims(), waiting: newWaiting(),
		cache: &cache{
			migrations: newInformer(c, resourceMigrations, &v1alpha1.Migration{}, nil),
			fences:     newInformer(c, resourceFences, &v1alpha1.Fence{}, nil),
		},
	}
}

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
			p := against(t, func(w http.ResponseWriter, r *http.Request) {
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

func TestFindAtTheAPIServer(t *testing.T) {
	for name, tc := range map[string]struct {
		code  int
		body  any
		want  string
		error bool
	}{
		"found": {http.StatusOK, v1alpha1.MigrationList{
			TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "MigrationList"},
			Items:    []v1alpha1.Migration{*lost("m", "web-1", "ReplicaSet", "rs")},
		}, "m", false},
		"kinds not installed": {http.StatusNotFound, refusal(http.StatusNotFound, metav1.StatusReasonNotFound), "", false},
		"no permission":       {http.StatusForbidden, refusal(http.StatusForbidden, metav1.StatusReasonForbidden), "", true},
		"broken":              {http.StatusInternalServerError, refusal(http.StatusInternalServerError, metav1.StatusReasonInternalError), "", true},
	} {
		t.Run(name, func(t *testing.T) {
			p := against(t, func(w http.ResponseWriter, r *http.Request) { answer(w, tc.code, tc.body) })
			m, err := p.find(t.Context(), successor("web-2", "ReplicaSet", "rs"))
			got := ""
			if m != nil {
				got = m.Name
			}
			if got != tc.want || (err != nil) != tc.error {
				t.Errorf("found %q with error %v; want %q, an error: %v", got, err, tc.want, tc.error)
			}
		})
	}
}

// A Migration that another pod was given just now is not offered again.
func TestFindLeavesOutReserved(t *testing.T) {
	m := lost("m", "web-1", "ReplicaSet", "rs")
	p := against(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, v1alpha1.MigrationList{
			TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "MigrationList"},
			Items:    []v1alpha1.Migration{*m},
		})
	})
	if !p.claims.reserve(m.UID, "other") {
		t.Fatal("a free Migration was refused")
	}
	pod := successor("web-2", "ReplicaSet", "rs")
	if got, err := p.find(t.Context(), pod); err != nil || got != nil {
		t.Errorf("found %v with error %v while another pod has it", got, err)
	}
	p.claims.release("other")
	if got, err := p.find(t.Context(), pod); err != nil || got == nil {
		t.Errorf("found %v with error %v after it was returned", got, err)
	}
}

// The scheduler waits for PreFilter, so an API server that does not answer must
// not hold it for long, and the pod is to be tried again rather than started anew.
func TestPreFilterWithoutAnAnswer(t *testing.T) {
	end := make(chan struct{})
	p := against(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-end:
		case <-r.Context().Done():
		}
	})
	defer close(end)
	ctx, cancel := context.WithTimeout(t.Context(), 10*readTimeout)
	defer cancel()
	began := time.Now()
	_, status := p.PreFilter(ctx, nil, successor("web-2", "ReplicaSet", "rs"), nil)
	if took := time.Since(began); took > 3*readTimeout {
		t.Errorf("PreFilter took %s, its limit is %s", took, readTimeout)
	}
	if status.Code().String() != "Error" {
		t.Errorf("status %s: %s; want Error", status.Code(), status.Message())
	}
}

func TestPreFilterSkipsOtherPods(t *testing.T) {
	p := against(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("unexpected %s %s", r.Method, r.URL) })
	for name, annotations := range map[string]map[string]string{
		"none":      nil,
		"opted out": {v1alpha1.AnnotationFailover: "false"},
		"wrong":     {v1alpha1.AnnotationFailover: "true", v1alpha1.AnnotationInterval: "soon"},
	} {
		pod := successor("web-2", "ReplicaSet", "rs")
		pod.Annotations = annotations
		if _, status := p.PreFilter(t.Context(), nil, pod, nil); !status.IsSkip() {
			t.Errorf("%s: status %s, want Skip", name, status.Code())
		}
	}
}
