package store_test

import (
	"os"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/steady"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

// The tests wait for stable storage very often. What they show does not depend
// on a real disk.
func TestMain(m *testing.M) {
	steady.TemporaryFolders()
	os.Exit(m.Run())
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t testing.TB, keys *storetest.Keys) storetest.Fixture {
		dir := t.TempDir()
		var current *store.Store
		open := func(t testing.TB) storetest.Store {
			if current != nil {
				if err := current.Close(); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			if current, err = store.Open(dir, keys, store.Options{}); err != nil {
				t.Fatal(err)
			}
			return current
		}
		t.Cleanup(func() { current.Close() })
		return storetest.Fixture{Store: open(t), Reopen: open, Dir: dir}
	})
}
