package kubectl

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestServerClock(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"right": 0, "ahead": time.Hour, "behind": -3 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
			}))
			defer server.Close()
			clock := &serverClock{}
			response, err := (&http.Client{Transport: clock.wrap(http.DefaultTransport)}).Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if off := time.Until(clock.now()) - ahead; off.Abs() > agree {
				t.Errorf("it is %s from the server's clock", off)
			}
			if ahead == 0 && clock.offset.Load() != 0 {
				t.Errorf("clocks that agree are %d ns apart", clock.offset.Load())
			}
		})
	}
}
