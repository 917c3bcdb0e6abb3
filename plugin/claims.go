package plugin

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// claims remembers which pod has been given which Migration between Reserve and
// the moment at which the API shows the claim. It is safe for concurrent use.
type claims struct {
	mu          sync.Mutex
	byMigration map[types.UID]types.UID
}

func newClaims() *claims {
	return &claims{byMigration: make(map[types.UID]types.UID)}
}

// reserve gives the Migration to the pod. It returns false when another pod has
// it. A pod holds one Migration: one that it had before is returned.
func (c *claims) reserve(migration, pod types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if claimant, taken := c.byMigration[migration]; taken && claimant != pod {
		return false
	}
	c.releaseLocked(pod)
	c.byMigration[migration] = pod
	return true
}

// release returns what the pod had been given, if anything.
func (c *claims) release(pod types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.releaseLocked(pod)
}

func (c *claims) releaseLocked(pod types.UID) {
	for migration, claimant := range c.byMigration {
		if claimant == pod {
			delete(c.byMigration, migration)
		}
	}
}

// forget drops a Migration whose claimant the API shows, or that is closed or gone.
func (c *claims) forget(migration types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byMigration, migration)
}

// free says whether no pod other than this one has been given the Migration.
func (c *claims) free(migration, pod types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	claimant, taken := c.byMigration[migration]
	return !taken || claimant == pod
}
