package transfer_test

import (
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store/storetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer/holdertest"
)

func TestContract(t *testing.T) {
	holdertest.Run(t, func(t testing.TB, keys *storetest.Keys) holdertest.Fixture {
		authority := newAuthority(t)
		peer := newNode(t, authority, keys, store.Options{})
		return holdertest.Fixture{
			Holder: func(t testing.TB, own *store.Store, through func(string) string) transfer.Holder {
				config, err := authority.ClientTLS("client")
				check(t, err)
				client := transfer.NewClient(own, config)
				client.SetPatience(holdertest.Patience)
				t.Cleanup(func() { client.Close() })
				return client.Holder("node-2", through(peer.address))
			},
			Damage: func(t testing.TB, key store.Key) { peer.damage(t, key) },
		}
	})
}
