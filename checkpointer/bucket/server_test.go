package bucket

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer/holdertest"
	"github.com/lifeboat-dev/lifeboat/e2e/objectstore"
)

const bucketName = "checkpoints"

// shared is the server of all tests that do it no harm.
var shared struct {
	once   sync.Once
	dir    string
	server *objectstore.Server
	err    error
}

func TestMain(m *testing.M) {
	if shared.dir, shared.err = os.MkdirTemp("", "bucket-test-"); shared.err != nil {
		fmt.Fprintln(os.Stderr, shared.err)
		os.Exit(1)
	}
	code := m.Run()
	if shared.server != nil {
		shared.server.Stop()
	}
	os.RemoveAll(shared.dir)
	os.Exit(code)
}

func sharedServer(t testing.TB) *objectstore.Server {
	t.Helper()
	shared.once.Do(func() { shared.server, shared.err = start(t, objectstore.Options{Dir: shared.dir}) })
	check(t, shared.err)
	return shared.server
}

func start(t testing.TB, options objectstore.Options) (*objectstore.Server, error) {
	options.Progress = func(step string) { t.Log(step) }
	server, err := objectstore.Start(t.Context(), options)
	if err != nil || options.Address != "" || options.Certificate != "" {
		return server, err // one that was there before has its bucket
	}
	err = server.MakeBucket(t.Context(), bucketName)
	return server, err
}

// ownServer starts a server for one test. A test may stop it, and start it again at the same place.
func ownServer(t testing.TB, options objectstore.Options) *objectstore.Server {
	t.Helper()
	if options.Dir == "" {
		options.Dir = t.TempDir()
	}
	server, err := start(t, options)
	check(t, err)
	t.Cleanup(server.Stop)
	return server
}

var prefixes atomic.Int64

// configFor is a folder of its own in a server's bucket.
func configFor(server *objectstore.Server) Config {
	return Config{Endpoint: server.Address(), Bucket: bucketName, Region: objectstore.Region, Prefix: fmt.Sprint("test/", prefixes.Add(1)),
		AccessKey: objectstore.AccessKey, SecretKey: objectstore.SecretKey, Insecure: true}
}

// newBucket returns a bucket that does not wait long.
func newBucket(t testing.TB, config Config, own *store.Store) *Bucket {
	t.Helper()
	b, err := New(config, own)
	check(t, err)
	b.readStall, b.writeStall = 2*holdertest.Patience, 2*holdertest.Patience
	return b
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestHolderContract(t *testing.T) {
	holdertest.Run(t, func(t testing.TB, _ *storetest.Keys) holdertest.Fixture {
		server := sharedServer(t)
		config := configFor(server)
		return holdertest.Fixture{
			Holder: func(t testing.TB, own *store.Store, through func(string) string) transfer.Holder {
				config := config
				config.Endpoint = through(config.Endpoint)
				return newBucket(t, config, own)
			},
			Damage: func(t testing.TB, key store.Key) { damageAll(t, server, config, key) },
		}
	})
}

// damageAll alters a byte in the middle of each segment on the server's disk.
func damageAll(t testing.TB, server *objectstore.Server, config Config, key store.Key) {
	t.Helper()
	folder := server.File(bucketName, config.prefix()+key.Namespace+"/"+key.PodUID+"/segments")
	entries, err := os.ReadDir(folder)
	check(t, err)
	damaged := 0
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".seg") {
			continue
		}
		damaged++
		alter(t, folder+"/"+entry.Name())
	}
	if damaged == 0 {
		t.Fatalf("%s has no segments", folder)
	}
}

func alter(t testing.TB, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	check(t, err)
	content[len(content)/2] ^= 1
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(t, err)
	defer file.Close()
	_, err = file.WriteAt(content, 0) // in place: the attributes stay
	check(t, err)
}
