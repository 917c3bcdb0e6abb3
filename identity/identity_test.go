package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

const own = "lifeboat-system"

func ensure(t testing.TB, clientset *fake.Clientset) *Authority {
	t.Helper()
	a, err := Ensure(t.Context(), clientset, own)
	check(t, err)
	return a
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEnsureMakesOneAuthority(t *testing.T) {
	clientset := fake.NewClientset()
	first := ensure(t, clientset)
	second := ensure(t, clientset)
	if !bytes.Equal(first.CABundle(), second.CABundle()) || !bytes.Equal(first.MemberKey(), second.MemberKey()) {
		t.Error("a second process has another authority")
	}
	if n := len(first.MemberKey()); n != 32 {
		t.Errorf("the member key has %d bytes", n)
	}
	if left := time.Until(first.certificate.NotAfter); left < authorityLifetime-time.Hour || left > authorityLifetime {
		t.Errorf("the authority expires in %s", left)
	}
}

// Processes that start at once find no Secret, all of them. The API takes one.
func TestRacingEnsures(t *testing.T) {
	api := fake.NewClientset().Tracker()
	const racers = 8
	var looked sync.WaitGroup
	looked.Add(racers)
	// Each has a clientset of its own, because a clientset answers one call at a time.
	racer := func() *fake.Clientset {
		clientset := &fake.Clientset{}
		clientset.AddReactor("*", "*", clienttesting.ObjectReaction(api))
		first := true
		clientset.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			if !first {
				return false, nil, nil
			}
			first = false
			looked.Done()
			looked.Wait() // until all have seen that there is none
			return true, nil, apierrors.NewNotFound(corev1.Resource("secrets"), SecretName)
		})
		return clientset
	}
	bundles := make(chan string, racers)
	failures := make(chan error, racers)
	for range racers {
		go func() {
			a, err := Ensure(t.Context(), racer(), own)
			if err != nil {
				failures <- err
				return
			}
			bundles <- string(a.CABundle()) + string(a.MemberKey())
		}()
	}
	seen := map[string]bool{}
	for range racers {
		select {
		case b := <-bundles:
			seen[b] = true
		case err := <-failures:
			t.Error(err)
		case <-time.After(20 * time.Second):
			t.Fatal("an Ensure did not return")
		}
	}
	if len(seen) != 1 {
		t.Errorf("%d racers have %d authorities", racers, len(seen))
	}
}

func TestEnsureSaysWhatIsWrong(t *testing.T) {
	good, err := newAuthority()
	check(t, err)
	other, err := newAuthority()
	check(t, err)
	for name, c := range map[string]struct {
		change func(data map[string][]byte)
		want   string
	}{
		"no certificate":      {func(d map[string][]byte) { delete(d, entryCertificate) }, entryCertificate},
		"another's key":       {func(d map[string][]byte) { d[entryKey] = other[entryKey] }, entryKey},
		"a short member key":  {func(d map[string][]byte) { d[entryMember] = d[entryMember][:16] }, entryMember},
		"nothing":             {func(d map[string][]byte) { clear(d) }, SecretName},
		"a leaf certificate":  {func(d map[string][]byte) { d[entryCertificate], d[entryKey] = leafPEM(t, good) }, "authority"},
		"text for a key pair": {func(d map[string][]byte) { d[entryKey] = []byte("hello") }, entryKey},
	} {
		t.Run(name, func(t *testing.T) {
			data := map[string][]byte{}
			for k, v := range good {
				data[k] = v
			}
			c.change(data)
			clientset := fake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: SecretName, Namespace: own}, Data: data})
			if _, err := Ensure(t.Context(), clientset, own); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error about %s, got %v", c.want, err)
			}
		})
	}
}

func leafPEM(t *testing.T, data map[string][]byte) (certificate, key []byte) {
	t.Helper()
	a, err := parseAuthority(data)
	check(t, err)
	cert, err := a.Certificate("node")
	check(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// handshake connects a client and a server, and returns what each of them says.
func handshake(client, server *tls.Config) (clientErr, serverErr error) {
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(far, server)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("x")) // in TLS 1.3 the client learns of a refusal with the first read
		}
		far.Close()
		done <- err
	}()
	conn := tls.Client(near, client)
	clientErr = conn.Handshake()
	if clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1))
	}
	near.Close()
	return clientErr, <-done
}

func configs(t testing.TB, a *Authority) (client, server *tls.Config) {
	t.Helper()
	client, err := a.ClientTLS("node-1")
	check(t, err)
	server, err = a.ServerTLS("node-2")
	check(t, err)
	return client, server
}

func TestMutualTLS(t *testing.T) {
	ours, theirs := ensure(t, fake.NewClientset()), ensure(t, fake.NewClientset())
	client, server := configs(t, ours)
	otherClient, otherServer := configs(t, theirs)
	bare := client.Clone()
	bare.GetClientCertificate = nil
	old := client.Clone()
	old.MaxVersion = tls.VersionTLS12
	old.MinVersion = tls.VersionTLS12
	named := client.Clone()
	named.ServerName = "node-2"
	for name, c := range map[string]struct {
		client, server *tls.Config
		ok             bool
	}{
		"peers of one cluster":        {client, server, true},
		"a client of another cluster": {otherClient, server, false},
		"a server of another cluster": {client, otherServer, false},
		"a client without one":        {bare, server, false},
		"an old protocol":             {old, server, false},
		"another name":                {named, server, false},
	} {
		t.Run(name, func(t *testing.T) {
			clientErr, serverErr := handshake(c.client, c.server)
			if ok := clientErr == nil && serverErr == nil; ok != c.ok {
				t.Errorf("client: %v, server: %v", clientErr, serverErr)
			}
		})
	}
}

func TestWebhookTLS(t *testing.T) {
	a := ensure(t, fake.NewClientset())
	const name = "lifeboat-watcher.lifeboat-system.svc"
	server, err := a.WebhookTLS(name)
	check(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(a.CABundle()) {
		t.Fatal("the CA bundle is not PEM")
	}
	if clientErr, serverErr := handshake(&tls.Config{RootCAs: pool, ServerName: name}, server); clientErr != nil || serverErr != nil {
		t.Errorf("client: %v, server: %v", clientErr, serverErr)
	}
}

func TestCertificateNames(t *testing.T) {
	a := ensure(t, fake.NewClientset())
	cert, err := a.Certificate("node-1", "node-1.example", "10.0.0.7")
	check(t, err)
	for _, name := range []string{PeerName, "node-1.example", "10.0.0.7"} {
		if err := cert.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if cert.Leaf.Subject.CommonName != "node-1" {
		t.Errorf("common name %q", cert.Leaf.Subject.CommonName)
	}
	if _, err := a.Certificate(""); err == nil {
		t.Error("a certificate without a name was minted")
	}
}

// A process that runs for longer than its certificate is valid mints another
// in time, and a connection made at any moment works.
func TestCertificatesAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data, err := newAuthority()
		check(t, err)
		a, err := parseAuthority(data)
		check(t, err)
		client, server := configs(t, a)
		start, err := server.GetCertificate(nil)
		check(t, err)
		for range 36 { // months
			time.Sleep(30 * 24 * time.Hour)
			if clientErr, serverErr := handshake(client, server); clientErr != nil || serverErr != nil {
				t.Fatalf("client: %v, server: %v", clientErr, serverErr)
			}
			now, err := server.GetCertificate(nil)
			check(t, err)
			if left := time.Until(now.Leaf.NotAfter); left < leafLifetime/4 {
				t.Fatalf("the certificate is not renewed %s before its end", left)
			}
		}
		now, err := server.GetCertificate(nil)
		check(t, err)
		if now.Leaf.SerialNumber.Cmp(start.Leaf.SerialNumber) == 0 {
			t.Error("after three years it is the same certificate")
		}
	})
}

func TestNamespaceKeys(t *testing.T) {
	ctx := t.Context()
	clientset := fake.NewClientset()
	a, b := NewNamespaceKeys(clientset, own), NewNamespaceKeys(clientset, own)
	id, key, err := a.Key(ctx, "shop")
	check(t, err)
	if id != "key-0001" || key == [32]byte{} {
		t.Errorf("the first key is %q", id)
	}
	otherID, otherKey, err := b.Key(ctx, "shop")
	check(t, err)
	if id != otherID || key != otherKey {
		t.Error("two processes have two keys")
	}
	if _, bankKey, err := a.Key(ctx, "bank"); err != nil || bankKey == key {
		t.Errorf("two namespaces have one key (%v)", err)
	}
	if _, err := a.KeyByID(ctx, "shop", "key-0002"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key that is not there: %v", err)
	}
	if _, err := a.KeyByID(ctx, "nowhere", "key-0001"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a namespace without keys: %v", err)
	}

	check(t, b.Rotate(ctx, "shop"))
	newID, newKey, err := b.Key(ctx, "shop")
	check(t, err)
	if newID != "key-0002" || newKey == key {
		t.Errorf("after a rotation the key is %q", newID)
	}
	// A process that did not hear of it reads what was written with it.
	if got, err := a.KeyByID(ctx, "shop", newID); err != nil || got != newKey {
		t.Errorf("the new key elsewhere: %v", err)
	}
	if got, err := a.KeyByID(ctx, "shop", id); err != nil || got != key {
		t.Errorf("the old key: %v", err)
	}
}

func TestRacingNamespaceKeys(t *testing.T) {
	clientset := fake.NewClientset()
	keys := make(chan [32]byte, 16)
	var wg sync.WaitGroup
	for range cap(keys) {
		wg.Go(func() {
			_, key, err := NewNamespaceKeys(clientset, own).Key(t.Context(), "shop")
			if err != nil {
				t.Error(err)
			}
			keys <- key
		})
	}
	wg.Wait()
	close(keys)
	seen := map[[32]byte]bool{}
	for key := range keys {
		seen[key] = true
	}
	if len(seen) != 1 {
		t.Errorf("16 racers have %d keys", len(seen))
	}
}

// Checkpoints go on without the API, and a rotation is followed once it answers.
func TestKeysWithoutTheAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		clientset := fake.NewClientset()
		down := false
		clientset.PrependReactor("*", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			return down, nil, errors.New("connection refused")
		})
		keys := NewNamespaceKeys(clientset, own)
		id, key, err := keys.Key(ctx, "shop")
		check(t, err)
		check(t, NewNamespaceKeys(clientset, own).Rotate(ctx, "shop"))

		down = true
		time.Sleep(keysFreshFor + time.Second)
		if gotID, got, err := keys.Key(ctx, "shop"); err != nil || gotID != id || got != key {
			t.Errorf("without the API: %q, %v", gotID, err)
		}
		if got, err := keys.KeyByID(ctx, "shop", id); err != nil || got != key {
			t.Errorf("without the API: %v", err)
		}
		if _, _, err := keys.Key(ctx, "bank"); err == nil {
			t.Error("a key was made without the API")
		}
		if _, err := keys.KeyByID(ctx, "shop", "key-0002"); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a key that cannot be asked for counts as one that is not there: %v", err)
		}
		down = false
		if gotID, _, err := keys.Key(ctx, "shop"); err != nil || gotID != "key-0002" {
			t.Errorf("with the API again: %q, %v", gotID, err)
		}
	})
}

func TestKeySecretsAreChecked(t *testing.T) {
	full := bytes.Repeat([]byte{7}, 32)
	for name, c := range map[string]struct {
		data map[string][]byte
		want string
	}{
		"short":    {map[string][]byte{"key-0001": full[:31]}, "31 bytes"},
		"unnamed":  {map[string][]byte{"mine": full}, `"mine"`},
		"unpadded": {map[string][]byte{"key-1": full}, `"key-1"`},
		"empty":    {nil, "no key"},
	} {
		t.Run(name, func(t *testing.T) {
			clientset := fake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "lifeboat-key-shop", Namespace: own}, Data: c.data})
			_, _, err := NewNamespaceKeys(clientset, own).Key(t.Context(), "shop")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error with %s, got %v", c.want, err)
			}
		})
	}
	many := map[string][]byte{}
	for i := range 12 {
		many[fmt.Sprintf("key-%04d", i+1)] = full
	}
	if ring, err := parseKeys(many); err != nil || ring.active != "key-0012" {
		t.Errorf("of 12 keys the newest is %q: %v", ring.active, err)
	}
}
