package bucket

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
	"github.com/lifeboat-dev/lifeboat/e2e/objectstore"
)

func TestCheckLeavesNothing(t *testing.T) {
	config := configFor(sharedServer(t))
	n := newNode(t, config, nil, 0)
	b, err := Open(t.Context(), config, n.Store)
	check(t, err)
	if name := b.Name(); name != "s3://"+bucketName+"/"+config.Prefix {
		t.Errorf("its name is %s", name)
	}
	config.Region = "" // the server is asked
	_, err = Open(t.Context(), config, n.Store)
	check(t, err)
	entries, err := os.ReadDir(sharedServer(t).File(bucketName, config.Prefix))
	if err == nil && len(entries) > 0 {
		t.Errorf("%s is left", entries[0].Name())
	}
}

// wantError wants an error that says what is wrong and what to do.
func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("want an error with %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	server := sharedServer(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	nobody := listener.Addr().String()
	check(t, listener.Close())
	for name, c := range map[string]struct {
		change func(*Config)
		words  []string
	}{
		"access key":    {func(c *Config) { c.AccessKey = "somebody" }, []string{server.Address(), "does not accept the credentials", "correct the access key"}},
		"secret":        {func(c *Config) { c.SecretKey = "wrong-secret" }, []string{server.Address(), "does not accept the credentials", "secret"}},
		"bucket":        {func(c *Config) { c.Bucket = "missing" }, []string{server.Address(), `no bucket "missing"`, "make it"}},
		"region":        {func(c *Config) { c.Region = "eu-west-1" }, []string{"region"}},
		"no TLS there":  {func(c *Config) { c.Insecure = false }, []string{server.Address(), "without TLS"}},
		"nobody":        {func(c *Config) { c.Endpoint = nobody }, []string{nobody, "cannot be reached"}},
		"endpoint":      {func(c *Config) { c.Endpoint = "" }, []string{"no endpoint"}},
		"scheme":        {func(c *Config) { c.Endpoint = "http://" + c.Endpoint }, []string{"host and port alone"}},
		"no bucket":     {func(c *Config) { c.Bucket = "" }, []string{"no bucket"}},
		"path":          {func(c *Config) { c.Bucket = "a/b" }, []string{`"a/b"`, "prefix"}},
		"prefix":        {func(c *Config) { c.Prefix = "a/../b" }, []string{`"a/../b"`}},
		"no CA file":    {func(c *Config) { c.CAFile = "/does/not/exist" }, []string{"/does/not/exist"}},
		"wrong CA file": {func(c *Config) { c.CAFile = os.Args[0] }, []string{os.Args[0], "PEM"}},
		"no credentials": {func(c *Config) {
			c.AccessKey, c.SecretKey = "", ""
		}, []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"} {
				t.Setenv(variable, "")
			}
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
			config := configFor(server)
			c.change(&config)
			begin := time.Now()
			_, err := Open(t.Context(), config, newNode(t, configFor(server), nil, 0).Store)
			wantError(t, err, c.words...)
			t.Log(err)
			if took := time.Since(begin); took > 3*readStall {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestCredentialsOfTheEnvironment(t *testing.T) {
	config := configFor(sharedServer(t))
	n := newNode(t, config, nil, 0)
	config.AccessKey, config.SecretKey = "", ""
	t.Run("variables", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", objectstore.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", objectstore.SecretKey)
		_, err := Open(t.Context(), config, n.Store)
		check(t, err)
	})
	t.Run("file", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		file := filepath.Join(t.TempDir(), "credentials")
		text := "[default]\naws_access_key_id = " + objectstore.AccessKey + "\naws_secret_access_key = " + objectstore.SecretKey + "\n"
		check(t, os.WriteFile(file, []byte(text), 0o600))
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
		_, err := Open(t.Context(), config, n.Store)
		check(t, err)
	})
}

func TestBucketThatDeniesWrites(t *testing.T) {
	options := objectstore.Options{Dir: t.TempDir()}
	server := ownServer(t, options)
	config := configFor(server)
	n := newNode(t, config, nil, 0)
	n.copied(t, noise(2, 1))
	server.Stop()
	options.Address, options.ReadOnly = server.Address(), true
	ownServer(t, options)
	wantError(t, n.Check(t.Context()), "write to it", "denied", "s3:PutObject", n.Name())
	n.seal(t, noise(2, 2))
	_, err := n.Replicate(t.Context(), testPod, 2)
	wantError(t, err, "denied", "s3:PutObject")
	n.impatient()
	wantError(t, n.Bucket.Remove(t.Context(), testPod), "denied", "s3:DeleteObject")
	n.wantFetched(t, 1, noise(2, 1)) // what is there can be restored all the same
}

func TestFullBucket(t *testing.T) {
	server := ownServer(t, objectstore.Options{Bytes: 16 << 20})
	for _, partBytes := range []int64{partBytes, leastPart} {
		n := newNode(t, configFor(server), nil, 64<<20)
		n.partBytes = partBytes
		small, large := noise(20, 1), noise(24<<20/storePage, 2)
		n.copied(t, small)
		n.seal(t, large)
		_, err := n.Replicate(t.Context(), testPod, 2)
		if !errors.Is(err, store.ErrBudget) {
			t.Errorf("want ErrBudget, got %v", err)
		}
		wantError(t, err, "no room left", "make it larger")
		n.wantHeld(t, 1)
		n.wantFetched(t, 1, small)
		check(t, n.Bucket.Remove(t.Context(), testPod))
	}
}

const storePage = 4096

func TestServerThatStopsAnswering(t *testing.T) {
	server := ownServer(t, objectstore.Options{})
	n := newNode(t, configFor(server), nil, 0)
	n.copied(t, noise(20, 1))
	gen := n.seal(t, noise(4096, 2))
	check(t, server.Pause())
	fresh := newNode(t, n.config, n.keys, 0)
	const stall = 400 * time.Millisecond
	for _, b := range []*Bucket{n.Bucket, fresh.Bucket} {
		b.readStall, b.writeStall = stall, stall
	}
	for name, call := range map[string]func() error{
		"Held":      func() error { _, err := n.Held(t.Context(), testPod); return err },
		"Replicate": func() error { _, err := n.Replicate(t.Context(), testPod, gen.Number); return err },
		"Fetch":     func() error { return fresh.Fetch(t.Context(), testPod, 1) },
		"Retain":    func() error { return n.Bucket.Retain(t.Context(), testPod, 1) },
		"Remove":    func() error { return n.Bucket.Remove(t.Context(), testPod) },
		"Check":     func() error { return n.Check(t.Context()) },
	} {
		begin := time.Now()
		err := call()
		if !errors.Is(err, transfer.ErrStalled) {
			t.Errorf("%s: %v", name, err)
		}
		wantError(t, err, server.Address(), stall.String())
		if took := time.Since(begin); took > 5*stall {
			t.Errorf("%s took %s", name, took)
		}
	}
	check(t, server.Continue())
	n = n.again(t)
	_, err := n.Replicate(t.Context(), testPod, gen.Number)
	check(t, err)
	n.wantFetched(t, gen.Number, noise(4096, 2))
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	certificate, key := filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key")
	selfSigned(t, certificate, key)
	options := objectstore.Options{Dir: t.TempDir()}
	ownServer(t, options).Stop() // it has made the bucket
	options.Certificate, options.Key = certificate, key
	server := ownServer(t, options)
	config := configFor(server)
	config.Insecure = false
	n := newNode(t, config, nil, 0)
	wantError(t, n.Check(t.Context()), server.Address(), "cannot be trusted", "authority")
	config.CAFile = certificate
	n = newNode(t, config, nil, 64<<20)
	n.partBytes = leastPart
	tree := noise(12<<20/storePage, 1)
	n.copied(t, tree)
	n.wantFetched(t, 1, tree)
}

// selfSigned writes a certificate for 127.0.0.1, and its key.
func selfSigned(t testing.TB, certificate, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	check(t, os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	check(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
}
