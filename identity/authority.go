// Package identity is who Lifeboat's processes are to each other: one
// certificate authority and one membership key for the cluster, kept in a
// Secret, and the encryption keys of namespaces.
package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// SecretName is the Secret with the cluster's authority.
const SecretName = "lifeboat-identity"

// PeerName is the DNS name in every certificate, and the one that clients
// verify: nodes come and go under addresses that nobody can know beforehand.
const PeerName = "lifeboat-peer"

// The entries of the Secret.
const (
	entryCertificate = "ca.crt"
	entryKey         = "ca.key"
	entryMember      = "member.key"
)

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	leafLifetime      = 365 * 24 * time.Hour
	// Clocks of nodes differ: certificates are valid from a little earlier.
	clockSkew = 5 * time.Minute

	memberKeySize = 32 // AES-256, for memberlist
)

// Authority signs the certificates of Lifeboat's processes. Each process has
// it, from the Secret: whoever can read that Secret is Lifeboat.
type Authority struct {
	certificate *x509.Certificate
	pem         []byte
	key         *ecdsa.PrivateKey
	memberKey   []byte
	pool        *x509.CertPool
}

// Ensure returns the cluster's authority. When the Secret is not there yet, one
// is made; of several processes that do this at once, the first writer wins and
// the others take what it wrote.
func Ensure(ctx context.Context, clientset kubernetes.Interface, namespace string) (*Authority, error) {
	secrets := clientset.CoreV1().Secrets(namespace)
	secret, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		var data map[string][]byte
		if data, err = newAuthority(); err != nil {
			return nil, fmt.Errorf("make an authority: %w", err)
		}
		secret, err = secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: SecretName, Namespace: namespace, Labels: managedLabels},
			Type:       corev1.SecretTypeOpaque,
			Data:       data,
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			secret, err = secrets.Get(ctx, SecretName, metav1.GetOptions{})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", namespace, SecretName, err)
	}
	a, err := parseAuthority(secret.Data)
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w; delete it and restart Lifeboat's pods to have it made anew", namespace, SecretName, err)
	}
	return a, nil
}

var managedLabels = map[string]string{"app.kubernetes.io/managed-by": "lifeboat"}

// newAuthority returns the entries of a new Secret.
func newAuthority() (map[string][]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "lifeboat"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	memberKey := make([]byte, memberKeySize)
	rand.Read(memberKey)
	return map[string][]byte{
		entryCertificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		entryKey:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		entryMember:      memberKey,
	}, nil
}

func newSerial() *big.Int {
	raw := make([]byte, 16)
	rand.Read(raw)
	raw[0] &= 0x7f // serial numbers are positive
	return new(big.Int).SetBytes(raw)
}

func parseAuthority(data map[string][]byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(data[entryCertificate], data[entryKey])
	if err != nil {
		return nil, fmt.Errorf("entries %s and %s: %w", entryCertificate, entryKey, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("entries %s and %s are not an ECDSA authority", entryCertificate, entryKey)
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("entry %s expired on %s", entryCertificate, pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	if n := len(data[entryMember]); n != memberKeySize {
		return nil, fmt.Errorf("entry %s has %d bytes in place of %d", entryMember, n, memberKeySize)
	}
	a := &Authority{certificate: pair.Leaf, pem: data[entryCertificate], key: key, memberKey: data[entryMember], pool: x509.NewCertPool()}
	a.pool.AddCert(pair.Leaf)
	return a, nil
}

// CABundle returns the authority's certificate as PEM, for those who verify its
// signatures, as the API server does with the webhook's.
func (a *Authority) CABundle() []byte { return append([]byte(nil), a.pem...) }

// MemberKey returns the 32-byte key that the members' gossip is encrypted with.
func (a *Authority) MemberKey() []byte { return append([]byte(nil), a.memberKey...) }

// Certificate mints a certificate for the node or component of that name. It
// is valid for PeerName and the further DNS names and IP addresses, as server
// and as client, for a year.
func (a *Authority) Certificate(name string, names ...string) (tls.Certificate, error) {
	if name == "" {
		return tls.Certificate{}, errors.New("a certificate needs a name")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate of %s: %w", name, err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     earlier(now.Add(leafLifetime), a.certificate.NotAfter),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     []string{PeerName},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate of %s: %w", name, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate of %s: %w", name, err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
