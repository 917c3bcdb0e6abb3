// Package cart is a shopping cart service that keeps its carts in memory alone,
// and a shopper that fills them and takes note of every answer.
//
// Nothing in it knows about checkpoints. Whether a cart that answers is the
// process that answered before shows from outside: its birth is drawn at random
// when the process starts, and its ticks count on from there.
package cart

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"
	"time"
)

// TickEvery is the time between two ticks of a cart service.
const TickEvery = 100 * time.Millisecond

// Item is one line of a cart.
type Item struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

// Life tells one process of the service from another.
type Life struct {
	// Birth is drawn at random when the process starts.
	Birth string `json:"birth"`
	// Ticks counts how often TickEvery has passed while the process ran.
	Ticks int64 `json:"ticks"`
}

// Snapshot is everything that a cart service holds.
type Snapshot struct {
	Life
	// Items is the number of lines in all carts.
	Items int `json:"items"`
	// Checksum is the SHA-256 of all lines in order.
	Checksum string `json:"checksum"`
	// Carts has the lines of each cart, sorted by SKU.
	Carts map[string][]Item `json:"carts"`
}

// Has says whether a cart has a line for the SKU.
func (s Snapshot) Has(cart, sku string) bool {
	lines := s.Carts[cart]
	i := sort.Search(len(lines), func(i int) bool { return lines[i].SKU >= sku })
	return i < len(lines) && lines[i].SKU == sku
}

// Store holds carts in memory.
type Store struct {
	birth string

	mu    sync.Mutex
	ticks int64
	carts map[string]map[string]int
	// imported are those lines that another service has handed over, and held refuses more.
	imported map[string][]Item
	held     bool
}

// New returns an empty store with a fresh birth. Its ticks stand still until
// Tick is called.
func New() *Store {
	return &Store{birth: rand.Text(), carts: map[string]map[string]int{}}
}

// Tick counts one more tick.
func (s *Store) Tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ticks++
}

// Life returns the store's birth and how long it has lived.
func (s *Store) Life() Life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Life{Birth: s.birth, Ticks: s.ticks}
}

// Add puts a quantity of a SKU into a cart, and returns the cart's new line.
func (s *Store) Add(cart string, item Item) (Item, error) {
	if item.SKU == "" || item.Quantity < 1 {
		return Item{}, fmt.Errorf("an item needs a sku and a quantity of at least 1, not %q and %d", item.SKU, item.Quantity)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held {
		return Item{}, ErrHeld
	}
	if s.carts[cart] == nil {
		s.carts[cart] = map[string]int{}
	}
	s.carts[cart][item.SKU] += item.Quantity
	return Item{SKU: item.SKU, Quantity: s.carts[cart][item.SKU]}, nil
}

// Cart returns the lines of one cart, sorted by SKU.
func (s *Store) Cart(cart string) []Item {
	s.mu.Lock()
	defer s.mu.Unlock()
	return lines(s.carts[cart])
}

// Snapshot returns everything that the store holds at one moment.
func (s *Store) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	snapshot := Snapshot{Life: Life{s.birth, s.ticks}, Carts: make(map[string][]Item, len(s.carts))}
	for name, cart := range s.carts {
		snapshot.Carts[name] = lines(cart)
		snapshot.Items += len(cart)
	}
	snapshot.Checksum = Checksum(snapshot.Carts)
	return snapshot
}

// Checksum returns the SHA-256 of the lines of carts. The lines of each cart
// must be sorted by SKU.
func Checksum(carts map[string][]Item) string {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(carts)) {
		for _, item := range carts[name] {
			fmt.Fprintf(sum, "%q %q %d\n", name, item.SKU, item.Quantity)
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func lines(cart map[string]int) []Item {
	items := make([]Item, 0, len(cart))
	for sku, quantity := range cart {
		items = append(items, Item{SKU: sku, Quantity: quantity})
	}
	sort.Slice(items, func(i, j int) bool { return items[i].SKU < items[j].SKU })
	return items
}
