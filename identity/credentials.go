package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// Credentials are one certificate, its key, and the authority's certificate, all
// as PEM: enough to be a peer, and not enough to make another one. They are for a
// process that must do without the authority and without the API.
type Credentials struct {
	Authority   []byte `json:"authority"`
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`
}

// Credentials mints a certificate for the node or component of that name, to hand on.
func (a *Authority) Credentials(name string) (Credentials, error) {
	cert, err := a.Certificate(name)
	if err != nil {
		return Credentials{}, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return Credentials{}, fmt.Errorf("certificate of %s: %w", name, err)
	}
	return Credentials{
		Authority:   a.CABundle(),
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	}, nil
}

// TLS is how a process serves its peers, and how it reaches them, as with
// Authority.ServerTLS and Authority.ClientTLS, until the certificate expires after
// a year: whoever minted it has to hand on a new one in time.
func (c Credentials) TLS() (server, client *tls.Config, err error) {
	cert, err := tls.X509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("credentials: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(c.Authority) {
		return nil, nil, errors.New("credentials: no authority in them")
	}
	server = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		Certificates: []tls.Certificate{cert},
	}
	client = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      pool,
		ServerName:   PeerName,
		Certificates: []tls.Certificate{cert},
	}
	return server, client, nil
}
