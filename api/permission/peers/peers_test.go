package peers

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority signs certificates as Lifeboat's does: all are for one name, and the
// common name tells whose they are.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

const peerName = "peer"

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.cert, a.key = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// config is a process's TLS configuration, as server and as client.
func (a *authority) config(name string) *tls.Config {
	cert, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{peerName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	})
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: peerName, RootCAs: a.pool,
		ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
	}
}

// scripted is a node with fixed answers, which notes the questions.
type scripted struct {
	vouch, promise, readable bool
	mu                       sync.Mutex
	asked                    []string
}

func (s *scripted) note(question string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, question)
}

func (s *scripted) Vouch(node string) bool { s.note("vouch " + node); return s.vouch }

func (s *scripted) Promise(node string) (promised, readable bool) {
	s.note("promise " + node)
	return s.promise, s.readable
}

// serve serves until the test ends, and returns the address.
func serve(t *testing.T, config func() (*tls.Config, error), answers Answers) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- Serve(ctx, listener, config, answers) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return listener.Addr().String()
}

func with(config *tls.Config) func() (*tls.Config, error) {
	return func() (*tls.Config, error) { return config, nil }
}

// mute takes connections and says nothing, as a node does whose processes are stopped.
func mute(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().String()
}

// TestWhoCounts: only a node that answers, under its own name and by the same
// authority, is counted, and each as what it said.
func TestWhoCounts(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	addresses := map[string]string{
		"yes":       serve(t, with(a.config("yes")), &scripted{vouch: true, promise: true, readable: true}),
		"no":        serve(t, with(a.config("no")), &scripted{}),
		"moved":     serve(t, with(a.config("another")), &scripted{vouch: true, promise: true}),
		"stranger":  serve(t, with(stranger.config("stranger")), &scripted{vouch: true, promise: true}),
		"not ready": serve(t, func() (*tls.Config, error) { return nil, errors.New("no certificate yet") }, &scripted{vouch: true}),
		"refuses":   "127.0.0.1:1",
		"stopped":   mute(t),
	}
	client := NewClient(a.config("n1"))
	defer client.Close()

	started := time.Now()
	promised, unreadable := client.Promise(t.Context(), addresses, "n1")
	if took := time.Since(started); took > 2*PromiseTime {
		t.Errorf("a round of promises took %s", took)
	}
	if !slices.Equal(promised, []string{"yes"}) || !slices.Equal(unreadable, []string{"no"}) {
		t.Errorf("promised: %q, unreadable: %q", promised, unreadable)
	}

	ctx, cancel := context.WithTimeout(t.Context(), PromiseTime)
	defer cancel()
	if vouched := client.Vouch(ctx, addresses, "n1", 2); !slices.Equal(vouched, []string{"yes"}) {
		t.Errorf("vouched: %q", vouched)
	}
	if ctx.Err() == nil {
		t.Error("too few vouched, and the node that says nothing was not waited for")
	}
}

// TestEnoughIsEnough: a stopped node holds up nobody who has enough answers.
func TestEnoughIsEnough(t *testing.T) {
	a := newAuthority(t)
	client := NewClient(a.config("n1"))
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	vouched := client.Vouch(ctx, map[string]string{
		"yes": serve(t, with(a.config("yes")), &scripted{vouch: true}), "stopped": mute(t),
	}, "n1", 1)
	if !slices.Equal(vouched, []string{"yes"}) || ctx.Err() != nil {
		t.Errorf("vouched: %q, %v", vouched, ctx.Err())
	}
}

// TestServerRefuses what no fencer and no watcher sends.
func TestServerRefuses(t *testing.T) {
	a := newAuthority(t)
	node := &scripted{vouch: true, promise: true}
	url := "https://" + serve(t, with(a.config("n2")), node)
	bare := a.config("n1")
	bare.Certificates = nil
	for name, test := range map[string]struct {
		config       *tls.Config
		method, path string
		body         string
		want         int // 0: no answer at all
	}{
		"a node asks for itself":           {a.config("n1"), "POST", pathVouch, `{"node":"n1"}`, http.StatusOK},
		"the watcher asks for a promise":   {a.config("watcher"), "POST", pathPromise, `{"node":"n1"}`, http.StatusOK},
		"a node asks for another":          {a.config("n3"), "POST", pathVouch, `{"node":"n1"}`, http.StatusForbidden},
		"no node":                          {a.config("n1"), "POST", pathVouch, `{}`, http.StatusBadRequest},
		"no JSON":                          {a.config("n1"), "POST", pathPromise, `node=n1`, http.StatusBadRequest},
		"a long question":                  {a.config("n1"), "POST", pathPromise, `{"node":"` + strings.Repeat("n", maxBody) + `"}`, http.StatusBadRequest},
		"another method":                   {a.config("n1"), "GET", pathVouch, ``, http.StatusMethodNotAllowed},
		"another path":                     {a.config("n1"), "POST", "/", ``, http.StatusNotFound},
		"no certificate":                   {bare, "POST", pathPromise, `{"node":"n1"}`, 0},
		"a certificate of somebody else's": {newAuthority(t).trusting(a, "n1"), "POST", pathPromise, `{"node":"n1"}`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			node.asked = nil
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: test.config}}
			defer client.CloseIdleConnections()
			request, err := http.NewRequestWithContext(t.Context(), test.method, url+test.path, bytes.NewReader([]byte(test.body)))
			if err != nil {
				t.Fatal(err)
			}
			got := 0
			if response, err := client.Do(request); err == nil {
				got = response.StatusCode
				_ = response.Body.Close()
			}
			if got != test.want {
				t.Errorf("the status is %d, want %d", got, test.want)
			}
			if heard := len(node.asked) > 0; heard != (test.want == http.StatusOK) {
				t.Errorf("the node was asked %q", node.asked)
			}
		})
	}
}

// trusting is a configuration with a certificate of a's, which trusts another authority.
func (a *authority) trusting(other *authority, name string) *tls.Config {
	config := a.config(name)
	config.RootCAs = other.pool
	return config
}

func TestDefaultPort(t *testing.T) {
	for address, want := range map[string]string{"10.0.0.7": "10.0.0.7:7950", "10.0.0.7:1": "10.0.0.7:1", "fd00::7": "[fd00::7]:7950"} {
		if got := withPort(address); got != want {
			t.Errorf("%s is asked at %s, want %s", address, got, want)
		}
	}
}
