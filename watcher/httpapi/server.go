package httpapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// longestRequest is above what any operation takes that is not a stream. When it is
	// over, the connection is closed.
	longestRequest = 3 * time.Minute
	headerWithin   = 5 * time.Second
	idleFor        = 2 * time.Minute
	headerLimit    = 32 << 10
	// mostRequests is how many are served at a time, streams among them.
	mostRequests = 256
	// endWithin is how long requests have to end when the server stops.
	endWithin = 4 * time.Second
)

// Server serves the API on every replica of the watcher.
type Server struct {
	Service
	// Address as ":8443".
	Address string
	// TLS is how it is served: with a certificate of Lifeboat's authority.
	TLS *tls.Config
}

// NeedLeaderElection says that every watcher does this: any may be asked.
func (s *Server) NeedLeaderElection() bool { return false }

// Start serves until ctx ends.
func (s *Server) Start(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", s.Address)
	if err != nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	ending, end := context.WithCancel(context.Background())
	defer end()
	handler, err := NewHandler(ending, s.Service)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	server := &http.Server{
		Handler: handler, TLSConfig: s.TLS.Clone(),
		ReadHeaderTimeout: headerWithin, ReadTimeout: longestRequest, WriteTimeout: longestRequest, IdleTimeout: idleFor, MaxHeaderBytes: headerLimit,
		ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	server.RegisterOnShutdown(end)
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), endWithin)
		defer cancel()
		err := server.Shutdown(ctx)
		if err != nil {
			err = errors.Join(err, server.Close())
		}
		ended <- err
	}()
	s.Log.Info("the API is served", "address", listener.Addr().String())
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API: %w", err)
	}
	if err := <-ended; err != nil {
		s.Log.Warn("requests were cut off when the API ended", "error", err)
	}
	return nil
}

// NewHandler is the API. Streams, and what waits, end when ending does.
func NewHandler(ending context.Context, of Service) (http.Handler, error) {
	s := &service{Service: of, ending: ending, streams: make(chan struct{}, mostStreams)}
	mux := http.NewServeMux()
	document, err := json.Marshal(s.newAPI(mux).OpenAPI())
	if err != nil {
		return nil, fmt.Errorf("write the API's specification: %w", err)
	}
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document)
	})
	return of.Requests.Count(bounded(withHeaders(withProblems(mux)))), nil
}

// Document is the API's specification, OpenAPI 3.1, for people to read.
func Document(namespace string) ([]byte, error) {
	s := &service{Service: Service{Namespace: namespace}}
	document, err := json.Marshal(s.newAPI(http.NewServeMux()).OpenAPI())
	if err != nil {
		return nil, fmt.Errorf("write the API's specification: %w", err)
	}
	var text bytes.Buffer
	if err := json.Indent(&text, document, "", "  "); err != nil {
		return nil, fmt.Errorf("write the API's specification: %w", err)
	}
	text.WriteByte('\n')
	return text.Bytes(), nil
}

// bounded serves a bounded number of requests at a time.
func bounded(next http.Handler) http.Handler {
	slots := make(chan struct{}, mostRequests)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		default:
			answer(w, r, problem(http.StatusServiceUnavailable, reasonBusy, "try again in a moment", "%d requests are being served already", mostRequests).after(time.Second))
		}
	})
}

// withHeaders says of every answer that it is for the caller alone, and what it says it is.
func withHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// withProblems answers what the mux knows nothing of with a problem.
func withProblems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		unknown := &unanswered{header: http.Header{}}
		handler.ServeHTTP(unknown, r)
		if allowed := unknown.header.Get("Allow"); allowed != "" {
			w.Header().Set("Allow", allowed)
			answer(w, r, problem(http.StatusMethodNotAllowed, reasonMethodNotAllowed, "use one of "+allowed, "%s is not served at %s", r.Method, r.URL.EscapedPath()))
			return
		}
		answer(w, r, problem(http.StatusNotFound, reasonNotFound, "see /openapi.json for what there is", "nothing is served at %s", r.URL.EscapedPath()))
	})
}

func answer(w http.ResponseWriter, r *http.Request, p *Problem) {
	p.Instance = r.URL.EscapedPath()
	for key, values := range p.GetHeaders() {
		w.Header()[key] = values
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// unanswered takes an answer that is not sent.
type unanswered struct{ header http.Header }

func (u *unanswered) Header() http.Header            { return u.header }
func (u *unanswered) Write(text []byte) (int, error) { return len(text), nil }
func (u *unanswered) WriteHeader(int)                {}
