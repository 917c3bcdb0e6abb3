package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"k8s.io/client-go/kubernetes/fake"
)

// What is handed on is good for a peer, on either side, and for nothing more.
func TestCredentials(t *testing.T) {
	ours, theirs := ensure(t, fake.NewClientset()), ensure(t, fake.NewClientset())
	client, server := configs(t, ours)
	credentials, err := ours.Credentials("node-3")
	check(t, err)
	handedServer, handedClient, err := credentials.TLS()
	check(t, err)
	strangers, err := theirs.Credentials("node-3")
	check(t, err)
	strangeServer, strangeClient, err := strangers.TLS()
	check(t, err)
	for name, c := range map[string]struct{ clientErr, serverErr error }{
		"as client": both(handshake(handedClient, server)),
		"as server": both(handshake(client, handedServer)),
	} {
		if c.clientErr != nil || c.serverErr != nil {
			t.Errorf("%s: %v, %v", name, c.clientErr, c.serverErr)
		}
	}
	if clientErr, _ := handshake(client, strangeServer); clientErr == nil {
		t.Error("a server of another cluster is accepted")
	}
	if _, serverErr := handshake(strangeClient, handedServer); serverErr == nil {
		t.Error("a client of another cluster is accepted")
	}
	if leaf := handedServer.Certificates[0].Leaf; leaf.IsCA || leaf.Subject.CommonName != "node-3" {
		t.Errorf("the certificate is of %s, an authority: %t", leaf.Subject.CommonName, leaf.IsCA)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ours.key)
	check(t, err)
	if bytes.Contains(pemBytes(t, credentials.Key), der) {
		t.Error("the authority's key is handed on")
	}
	if _, _, err := (Credentials{}).TLS(); err == nil {
		t.Error("empty credentials are taken")
	}
}

type outcomes = struct{ clientErr, serverErr error }

func both(clientErr, serverErr error) outcomes { return outcomes{clientErr, serverErr} }

func pemBytes(t *testing.T, encoded []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(encoded)
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}
