package peers

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"
)

// Answers is what a node answers. Its methods must answer at once, from memory.
type Answers interface {
	// Vouch says whether this node speaks for another one that cannot read its record.
	Vouch(node string) bool
	// Promise says whether this node promises not to speak for another one, and
	// whether it can read its own record.
	Promise(node string) (promised, readable bool)
}

// Serve answers until ctx ends. Config is asked for the TLS configuration of each
// connection, and refuses it with an error. Serve returns nil when ctx has ended.
func Serve(ctx context.Context, listener net.Listener, config func() (*tls.Config, error), answers Answers) error {
	server := &http.Server{
		Handler: handler(answers),
		TLSConfig: &tls.Config{
			MinVersion:         tls.VersionTLS13,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return config() },
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return nil, errors.New("there is one in the configuration for the client")
			},
		},
		// Whoever asks gives up much sooner.
		ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second, IdleTimeout: 10 * time.Second,
		MaxHeaderBytes: 4 << 10,
		// One request at a time, so that a dead connection takes only its own with it.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ServeTLS(listener, "", ""); ctx.Err() == nil {
		return err
	}
	return nil
}

func handler(answers Answers) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathVouch, func(w http.ResponseWriter, r *http.Request) {
		node, ok := asked(w, r)
		if !ok {
			return
		}
		if caller(r.TLS) != node {
			http.Error(w, "a node asks for itself alone: use the certificate of node "+node, http.StatusForbidden)
			return
		}
		answer(w, vouchAnswer{Vouch: answers.Vouch(node)})
	})
	mux.HandleFunc("POST "+pathPromise, func(w http.ResponseWriter, r *http.Request) {
		node, ok := asked(w, r)
		if !ok {
			return
		}
		promised, readable := answers.Promise(node)
		answer(w, promiseAnswer{Promise: promised, Readable: readable})
	})
	return mux
}

// asked reads the question, or says what is wrong with it.
func asked(w http.ResponseWriter, r *http.Request) (node string, ok bool) {
	var q question
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&q); err != nil || q.Node == "" {
		http.Error(w, `the body must be {"node":"NAME"}`, http.StatusBadRequest)
		return "", false
	}
	return q.Node, true
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // who is gone is gone
}

// caller is the name in the certificate of the other side; empty without one.
func caller(state *tls.ConnectionState) string {
	if state == nil || len(state.PeerCertificates) == 0 {
		return ""
	}
	return state.PeerCertificates[0].Subject.CommonName
}
