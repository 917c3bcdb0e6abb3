package identity

import (
	"crypto/tls"
	"sync"
	"time"
)

// ServerTLS is how a process serves its peers: TLS 1.3, to those alone that
// have a certificate of the same authority.
func (a *Authority) ServerTLS(name string) (*tls.Config, error) {
	m, err := newMinter(a, name)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      a.pool,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.current() },
	}, nil
}

// ClientTLS is how a process reaches a peer: it shows its certificate, and
// accepts one of the same authority for PeerName, whatever the address.
func (a *Authority) ClientTLS(name string) (*tls.Config, error) {
	m, err := newMinter(a, name)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		RootCAs:              a.pool,
		ServerName:           PeerName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.current() },
	}, nil
}

// WebhookTLS is how a webhook is served under the given DNS name, as
// "lifeboat-watcher.lifeboat-system.svc". The API server verifies it with
// CABundle, and shows no certificate itself.
func (a *Authority) WebhookTLS(dnsName string) (*tls.Config, error) {
	m, err := newMinter(a, dnsName, dnsName)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.current() },
	}, nil
}

// minter has a process's certificate, and mints the next one in time.
type minter struct {
	authority *Authority
	name      string
	names     []string

	mu   sync.Mutex
	cert *tls.Certificate
}

func newMinter(a *Authority, name string, names ...string) (*minter, error) {
	m := &minter{authority: a, name: name, names: names}
	_, err := m.current()
	return m, err
}

// current returns the certificate, a new one when two thirds of the time of the
// old one are over. A process never needs to be restarted for it.
func (m *minter) current() (*tls.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cert != nil {
		leaf := m.cert.Leaf
		if renewAt := leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3); time.Now().Before(renewAt) {
			return m.cert, nil
		}
	}
	cert, err := m.authority.Certificate(m.name, m.names...)
	if err != nil {
		return nil, err
	}
	m.cert = &cert
	return m.cert, nil
}
