// Package matrix says what the experiments measure: which combinations, how often and
// in which order, and what is kept of each run. It measures nothing itself.
package matrix

import (
	"fmt"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
)

// Application is what moves.
type Application string

// The applications.
const (
	Stateless  Application = "stateless"  // an HTTP API that keeps nothing between two requests
	Cart       Application = "cart"       // a shopping cart with all that it holds in memory alone
	Redis      Application = "redis"      // Debian's redis, without persistence
	PostgreSQL Application = "postgresql" // Debian's PostgreSQL, with its files in an emptyDir volume
)

// Owner is the kind of the object that makes the application's pods.
type Owner string

// The owners.
const (
	Deployment  Owner = "Deployment"
	StatefulSet Owner = "StatefulSet"
)

// Strategy is how the application gets to another node.
type Strategy string

// The strategies. Cold, Warm, Live, Handover and Replace are planned moves by Lifeboat.
const (
	Restart  Strategy = "restart"     // the pod is deleted, and its owner creates the next one; without Lifeboat
	Stock    Strategy = "stock"       // runc checkpoint, copy, runc restore of all memory; without Lifeboat
	Cold     Strategy = "cold"        // stop, checkpoint everything, copy, restore
	Warm     Strategy = "warm"        // stop, checkpoint what is new, copy, restore
	Live     Strategy = "live"        // copy while it runs, stop for what is left, restore with pages on demand
	Handover Strategy = "application" // the application hands its state over by its own endpoints
	Replace  Strategy = "replace"     // a new pod first, then the old one ends
	Failover Strategy = "failover"    // the node loses its power
)

// Load is what the clients do, and the application by itself, while it moves. Clients
// always read.
type Load string

// The loads.
const (
	Idle      Load = "idle"      // nothing but the reads
	Writes    Load = "writes"    // 200 writes a second
	Rewriting Load = "rewriting" // 10 % of the memory is rewritten a second
)

// All values of each dimension, in the order in which they are told.
var (
	Applications = []Application{Stateless, Cart, Redis, PostgreSQL}
	Strategies   = []Strategy{Restart, Stock, Cold, Warm, Live, Handover, Replace, Failover}
	Memories     = []int{64, 512, 2048}
	Loads        = []Load{Idle, Writes, Rewriting}
	Contents     = content.Kinds
)

// Cell is one combination.
type Cell struct {
	Application Application
	Owner       Owner
	Strategy    Strategy
	// MemoryMB is how much memory the application holds, in units of 2^20 bytes.
	MemoryMB int
	Load     Load
	Content  content.Kind
}

func (c Cell) String() string {
	return fmt.Sprintf("%s (%s) %s, %d MB %s, %s", c.Application, c.Owner, c.Strategy, c.MemoryMB, c.Content, c.Load)
}

// Excluded says why a cell makes no sense; it is empty for one that does.
func (c Cell) Excluded() string {
	switch {
	case c.Strategy == Handover && c.Application == Stateless:
		return "it has no state to hand over"
	case c.Strategy == Handover && c.Application != Cart:
		return "it has no endpoints that give its state away and take it"
	case c.Strategy == Handover && c.Owner == StatefulSet:
		return "a StatefulSet's pod is stopped before the new one takes its state over, which these runs do not measure"
	case c.Strategy == Replace && c.Application != Stateless:
		return "it would lose its state"
	}
	return ""
}

// Protected says whether Lifeboat protects the pod in this cell.
func (c Cell) Protected() bool {
	return c.Strategy != Restart && c.Strategy != Stock && c.Strategy != Replace
}

// Bytes is how much memory the application holds.
func (c Cell) Bytes() int64 { return int64(c.MemoryMB) << 20 }
