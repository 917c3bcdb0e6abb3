package metrics

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestRequests(t *testing.T) {
	registry := prometheus.NewRegistry()
	requests := NewRequests(registry)
	handler := requests.Count(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := testutil.ToFloat64(requests.served); got != 1 {
			t.Errorf("%v requests are being served, want 1", got)
		}
		if _, ok := w.(http.Flusher); !ok {
			t.Error("a stream cannot be flushed")
		}
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodGet} {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, "/", nil))
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("problems %v, %v", problems, err)
	}
	want := `
# HELP lifeboat_api_requests_in_flight Requests to the REST API that are being served, streams of events among them.
# TYPE lifeboat_api_requests_in_flight gauge
lifeboat_api_requests_in_flight 0
# HELP lifeboat_api_requests_total Requests to the REST API that were answered, by HTTP method and by the answer's status.
# TYPE lifeboat_api_requests_total counter
lifeboat_api_requests_total{code="200",method="get"} 2
lifeboat_api_requests_total{code="403",method="post"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
