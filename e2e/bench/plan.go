package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
)

// workload is what a container holds.
type workload struct {
	// Redis is whether it is Debian's redis, with data of Bytes; else it is a
	// program that fills Bytes of memory with Content.
	Redis   bool         `json:"redis,omitempty"`
	Content content.Kind `json:"content,omitempty"`
	Bytes   int64        `json:"bytes"`
	// Shared is whether the memory is such that processes share it without a file, as a
	// database's buffers; else it is the program's own.
	Shared bool `json:"shared,omitempty"`
}

func (w workload) String() string {
	if w.Redis {
		return "redis " + sizeText(w.Bytes)
	}
	text := string(w.Content) + " " + sizeText(w.Bytes)
	if w.Shared {
		text += " shared"
	}
	return text
}

func (w workload) pages() uint64 { return uint64(w.Bytes / content.PageSize) }

// row is one line of a table: a workload, of which a share of the pages is rewritten
// between two checkpoints.
type row struct {
	workload
	// Dirty is that share in percent.
	Dirty int `json:"dirty"`
	// Runs is how often Lifeboat's side is measured, and StockRuns runc's.
	Runs      int `json:"runs"`
	StockRuns int `json:"stockRuns"`
}

// withStock is whether runc's side is measured in a run of Lifeboat's: all runs of
// runc's are spread over them.
func (r row) withStock(run int) bool {
	return run*r.StockRuns/r.Runs != (run+1)*r.StockRuns/r.Runs
}

// name is the row's name in tables.
func (r row) name() string {
	if r.Redis {
		return r.String() + ", idle"
	}
	return fmt.Sprintf("%s, %d %%", r.workload, r.Dirty)
}

const (
	mebibyte = 1 << 20
	gibibyte = 1 << 30
	// redisBytes is the size of the data in redis.
	redisBytes = 64 * mebibyte
)

// restoreDirty is the share of the pages, in percent, that is rewritten between the
// generations ahead of a restore. Any other would do as well.
const restoreDirty = 1

// options are the flags that choose rows. Once any of sizes, contents and dirty is
// given, every combination of them is measured, of those that are not given all values.
type options struct {
	sizes, contents []string
	dirty           []int
	runs            int
	quick, shared   bool
}

// bench is what differs in what the three benchmarks measure.
type bench string

const (
	benchCheckpoint bench = "checkpoint"
	benchStore      bench = "store"
	benchRestore    bench = "restore"
)

// plan returns the rows that a benchmark measures, those of one workload together.
func plan(b bench, o options) ([]row, error) {
	chosen, err := o.parse()
	if err != nil {
		return nil, err
	}
	if b == benchRestore {
		chosen.dirty = []int{restoreDirty}
	}
	var rows []row
	add := func(w workload, dirty int) {
		r := row{workload: w, Dirty: dirty, Runs: o.runs}
		if r.Runs == 0 {
			r.Runs = usualRuns(b, r, o.quick)
		}
		r.StockRuns = r.Runs
		if b == benchCheckpoint {
			// Stock's pause varies little beside its length, and takes long.
			r.StockRuns = min(r.Runs, max(3, r.Runs/4))
		}
		rows = append(rows, r)
	}
	if chosen.redis && !o.shared && b != benchRestore {
		add(workload{Redis: true, Bytes: redisBytes}, 0)
	}
	for _, size := range chosen.sizes {
		for _, kind := range chosen.kinds {
			for _, dirty := range chosen.dirty {
				w := workload{Content: kind, Bytes: size, Shared: o.shared}
				if chosen.all || usual(b, w, dirty, o.quick) {
					add(w, dirty)
				}
			}
		}
	}
	if len(rows) == 0 {
		return nil, errors.New("the flags choose no row")
	}
	return rows, nil
}

// usual is whether a row is measured when nobody chooses. Every combination at
// every size would take an hour: how memory is filled, and how much of it is
// rewritten, is varied where a checkpoint is fast, and one at a time above that.
func usual(b bench, w workload, dirty int, quick bool) bool {
	switch {
	case b == benchRestore:
		return w.Content == content.Random && (!quick || w.Bytes < gibibyte)
	case quick:
		return w.Bytes < gibibyte && w.Content == content.Random && dirty == 1
	case w.Bytes < gibibyte:
		return true
	case w.Bytes == gibibyte:
		return w.Content == content.Random || dirty == 1
	}
	return w.Content == content.Random && dirty == 1
}

func usualRuns(b bench, r row, quick bool) int {
	switch {
	case quick && b == benchRestore:
		return 3
	case quick || b == benchStore || b == benchRestore:
		return 5
	case r.Bytes > gibibyte:
		return 6
	case r.Bytes == gibibyte && r.Content != content.Random:
		return 10
	}
	return 20
}

// choice is what options say.
type choice struct {
	sizes []int64
	kinds []content.Kind
	redis bool
	dirty []int
	all   bool // every combination
}

// redisContent is what --content calls redis.
const redisContent = "redis"

func (o options) parse() (choice, error) {
	c := choice{
		sizes: []int64{64 * mebibyte, gibibyte, 4 * gibibyte}, kinds: content.Kinds, redis: true, dirty: []int{0, 1, 10},
		all: len(o.sizes)+len(o.contents)+len(o.dirty) > 0,
	}
	if len(o.sizes) > 0 {
		c.sizes, c.redis = nil, false
	}
	for _, text := range o.sizes {
		size, err := parseSize(text)
		if err != nil {
			return c, fmt.Errorf("--sizes: %w", err)
		}
		c.sizes = append(c.sizes, size)
	}
	if len(o.dirty) > 0 {
		c.dirty, c.redis = o.dirty, false
	}
	for _, share := range o.dirty {
		if share < 0 || share > 100 {
			return c, fmt.Errorf("--dirty: %d %% of the pages: use 0 to 100", share)
		}
	}
	if len(o.contents) > 0 {
		c.kinds, c.redis = nil, slices.Contains(o.contents, redisContent)
	}
	for _, text := range o.contents {
		if text == redisContent {
			continue
		}
		kind, err := content.Parse(text)
		if err != nil {
			return c, fmt.Errorf("--content: %w", err)
		}
		c.kinds = append(c.kinds, kind)
	}
	if o.runs < 0 {
		return c, fmt.Errorf("--runs: %d: use 1 or more", o.runs)
	}
	return c, nil
}

// parseSize reads a size of memory, as 64M or 4G.
func parseSize(text string) (int64, error) {
	units := map[string]int64{"M": mebibyte, "G": gibibyte}
	for unit, bytes := range units {
		if number, ok := strings.CutSuffix(strings.ToUpper(text), unit); ok {
			n, err := strconv.ParseInt(number, 10, 32)
			if err == nil && n > 0 && n <= 1024 {
				return n * bytes, nil
			}
		}
	}
	return 0, fmt.Errorf("%q is no size: use 1M to 1024G, as 64M or 4G", text)
}

func sizeText(bytes int64) string {
	if bytes%gibibyte == 0 {
		return fmt.Sprintf("%d GB", bytes/gibibyte)
	}
	return fmt.Sprintf("%d MB", bytes/mebibyte)
}
