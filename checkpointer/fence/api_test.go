package fence

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// fenceAPI serves Fences over HTTP as the Kubernetes API does: reads see every
// write that was answered, and a write that names a resourceVersion is refused
// when it is not the present one. It can be made to stop answering.
type fenceAPI struct {
	*httptest.Server

	mu      sync.Mutex
	silence chan struct{} // open while requests go unanswered
	objects map[string]*v1alpha1.Fence
	version int
	// watch runs when a request has arrived.
	watch func()
	// beforePatch runs before a patch is looked at.
	beforePatch func(*v1alpha1.Fence)
}

func serveFences(t *testing.T) *fenceAPI {
	api := &fenceAPI{objects: map[string]*v1alpha1.Fence{}}
	api.Server = httptest.NewServer(http.HandlerFunc(api.serve))
	t.Cleanup(func() {
		api.setSilent(false)
		api.Close()
	})
	return api
}

// setSilent makes the API take requests and never answer them, or ends that.
func (a *fenceAPI) setSilent(silent bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case silent && a.silence == nil:
		a.silence = make(chan struct{})
	case !silent && a.silence != nil:
		close(a.silence)
		a.silence = nil
	}
}

// setWatch makes watch run when a request has arrived, before it is answered.
func (a *fenceAPI) setWatch(watch func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watch = watch
}

// setBeforePatch makes before run before a patch is looked at.
func (a *fenceAPI) setBeforePatch(before func(*v1alpha1.Fence)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.beforePatch = before
}

// set writes as the watcher does.
func (a *fenceAPI) set(node string, state v1alpha1.FenceState, epoch int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fence := a.objects[node]
	fence.Spec.State, fence.Spec.Epoch, fence.Spec.Reason = state, epoch, "silent in membership"
	a.bump(fence)
}

// spec returns the record of a node; its state is empty when there is none.
func (a *fenceAPI) spec(node string) v1alpha1.FenceSpec {
	a.mu.Lock()
	defer a.mu.Unlock()
	if fence := a.objects[node]; fence != nil {
		return fence.Spec
	}
	return v1alpha1.FenceSpec{}
}

func (a *fenceAPI) bump(fence *v1alpha1.Fence) {
	a.version++
	fence.ResourceVersion = strconv.Itoa(a.version)
}

func (a *fenceAPI) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	silence, watch := a.silence, a.watch
	a.mu.Unlock()
	if watch != nil {
		watch()
	}
	if silence != nil {
		select {
		case <-silence:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	}

	name, found := strings.CutPrefix(r.URL.Path, "/apis/lifeboat.dev/v1alpha1/fences")
	name = strings.TrimPrefix(name, "/")
	body, err := io.ReadAll(r.Body)
	if !found || err != nil || r.URL.RawQuery != "" {
		respond(w, http.StatusBadRequest, nil)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	fence := a.objects[name]
	switch {
	case r.Method == http.MethodPost:
		a.create(w, body)
	case fence == nil:
		respond(w, http.StatusNotFound, nil)
	case r.Method == http.MethodGet:
		respond(w, http.StatusOK, fence)
	case r.Method == http.MethodPatch && r.Header.Get("Content-Type") == "application/merge-patch+json":
		a.patch(w, fence, body)
	default:
		respond(w, http.StatusMethodNotAllowed, nil)
	}
}

func (a *fenceAPI) create(w http.ResponseWriter, body []byte) {
	var fence v1alpha1.Fence
	if err := json.Unmarshal(body, &fence); err != nil || fence.Name == "" {
		respond(w, http.StatusBadRequest, nil)
		return
	}
	if a.objects[fence.Name] != nil {
		respond(w, http.StatusConflict, nil)
		return
	}
	a.objects[fence.Name] = &fence
	a.bump(&fence)
	respond(w, http.StatusCreated, &fence)
}

func (a *fenceAPI) patch(w http.ResponseWriter, fence *v1alpha1.Fence, body []byte) {
	if a.beforePatch != nil {
		a.beforePatch(fence)
	}
	var patch struct {
		Metadata struct{ ResourceVersion string }
		Spec     map[string]any
	}
	if err := json.Unmarshal(body, &patch); err != nil {
		respond(w, http.StatusBadRequest, nil)
		return
	}
	if patch.Metadata.ResourceVersion != fence.ResourceVersion {
		respond(w, http.StatusConflict, nil)
		return
	}
	spec, err := merge(fence.Spec, patch.Spec)
	if err != nil {
		respond(w, http.StatusBadRequest, nil)
		return
	}
	fence.Spec = spec
	a.bump(fence)
	respond(w, http.StatusOK, fence)
}

// merge applies a JSON merge patch of one level.
func merge(spec v1alpha1.FenceSpec, patch map[string]any) (merged v1alpha1.FenceSpec, err error) {
	encoded, err := json.Marshal(spec)
	if err != nil {
		return merged, err
	}
	fields := map[string]any{}
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return merged, err
	}
	for key, value := range patch {
		if value == nil {
			delete(fields, key)
		} else {
			fields[key] = value
		}
	}
	if encoded, err = json.Marshal(fields); err != nil {
		return merged, err
	}
	err = json.Unmarshal(encoded, &merged)
	return merged, err
}

// respond answers with a Fence, or with a Status where there is none.
func respond(w http.ResponseWriter, code int, fence *v1alpha1.Fence) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if fence == nil {
		reasons := map[int]string{http.StatusNotFound: "NotFound", http.StatusConflict: "Conflict"}
		fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d}`, reasons[code], code)
		return
	}
	answer := fence.DeepCopy()
	answer.APIVersion, answer.Kind = v1alpha1.GroupVersion.String(), "Fence"
	_ = json.NewEncoder(w).Encode(answer)
}
