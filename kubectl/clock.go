package kubectl

import (
	"net/http"
	"sync/atomic"
	"time"
)

// serverClock tells the time as the API server's clock does. A Migration counts from the
// moment at which it is asked for to moments of the cluster's clocks, and that of a
// user's machine may be minutes away from those.
type serverClock struct {
	// offset is how far the server's clock is ahead, in nanoseconds.
	offset atomic.Int64
}

// agree is up to what difference two clocks count as the same: the server tells whole
// seconds alone, and its answer takes a time.
const agree = 2 * time.Second

func (s *serverClock) now() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) }

// wrap notes what the server's answers say of the time.
func (s *serverClock) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(request)
		if err != nil {
			return response, err
		}
		if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
			ahead := time.Until(date.Add(time.Second / 2))
			if ahead.Abs() < agree {
				ahead = 0
			}
			s.offset.Store(int64(ahead))
		}
		return response, nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }
