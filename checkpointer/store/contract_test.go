package store_test

import (
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
)

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
