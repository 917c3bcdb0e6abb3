package matrix

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
)

// Run is one measurement of a cell.
type Run struct {
	Cell
	// Number counts the runs of a cell, from 1.
	Number int
}

// Options choose what is measured.
type Options struct {
	// Runs is how often each cell is measured.
	Runs int
	// All is whether every combination is measured, in place of one dimension varied
	// at a time.
	All bool
	// Small is whether a few cells of 64 MB are measured, to see that all works.
	Small bool
	// Only leaves out what does not fit: words like "app=cart|redis", all of which
	// have to hold.
	Only string
}

// Around this point one dimension is varied at a time. Every combination would take days.
const (
	centreMemory  = 512
	centreLoad    = Writes
	centreContent = content.Random
)

// Cells are the cells that the options choose, without those that are excluded.
func (o Options) Cells() ([]Cell, error) {
	fits, err := parseOnly(o.Only)
	if err != nil {
		return nil, err
	}
	var chosen []Cell
	for _, application := range Applications {
		for _, owner := range ownersOf(application) {
			for _, strategy := range Strategies {
				for _, memory := range Memories {
					for _, load := range Loads {
						for _, kind := range Contents {
							c := Cell{application, owner, strategy, memory, load, kind}
							if c.Excluded() == "" && o.usual(c) && fits(c) {
								chosen = append(chosen, c)
							}
						}
					}
				}
			}
		}
	}
	if len(chosen) == 0 {
		return nil, errors.New("the flags choose no cell")
	}
	return chosen, nil
}

// ownersOf are the kinds that usually own an application's pods; the cart has both, as
// a StatefulSet's pod has to end before its successor exists.
func ownersOf(a Application) []Owner {
	switch a {
	case Stateless:
		return []Owner{Deployment}
	case Cart:
		return []Owner{StatefulSet, Deployment}
	}
	return []Owner{StatefulSet}
}

// usual says whether a cell is measured where nobody asks for all.
func (o Options) usual(c Cell) bool {
	if o.Small {
		return c.Application == Cart && (c.Owner == StatefulSet || c.Strategy == Handover) && c.MemoryMB == Memories[0] && c.Load == Writes && c.Content == centreContent
	}
	if o.All {
		return true
	}
	away := 0
	for _, differs := range []bool{c.MemoryMB != centreMemory, c.Load != centreLoad, c.Content != centreContent} {
		if differs {
			away++
		}
	}
	if c.Application == Cart && c.Owner == Deployment {
		// The second owner matters for how the pod is replaced, not for what is in it.
		// Stock's pod has no owner.
		return c.Strategy != Stock && (away == 0 || away == 1 && c.MemoryMB != centreMemory)
	}
	return away <= 1
}

// Plan returns the runs in their order: every cell once before any is measured again,
// so that what is interrupted has something of each.
func (o Options) Plan() ([]Run, error) {
	if o.Runs < 1 {
		return nil, fmt.Errorf("--runs %d: use at least 1", o.Runs)
	}
	cells, err := o.Cells()
	if err != nil {
		return nil, err
	}
	var runs []Run
	for number := 1; number <= o.Runs; number++ {
		for _, c := range cells {
			runs = append(runs, Run{c, number})
		}
	}
	return runs, nil
}

// dimensions are the keys that Only may name.
var dimensions = map[string]func(Cell) string{
	"app":      func(c Cell) string { return string(c.Application) },
	"owner":    func(c Cell) string { return strings.ToLower(string(c.Owner)) },
	"strategy": func(c Cell) string { return string(c.Strategy) },
	"memory":   func(c Cell) string { return strconv.Itoa(c.MemoryMB) },
	"load":     func(c Cell) string { return string(c.Load) },
	"content":  func(c Cell) string { return string(c.Content) },
}

// values are what a dimension can be.
func values(of func(Cell) string) []string {
	var all []string
	add := func(c Cell) {
		if v := of(c); v != "" && v != "0" && !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	for _, a := range Applications {
		add(Cell{Application: a})
	}
	for _, o := range []Owner{Deployment, StatefulSet} {
		add(Cell{Owner: o})
	}
	for _, s := range Strategies {
		add(Cell{Strategy: s})
	}
	for _, m := range Memories {
		add(Cell{MemoryMB: m})
	}
	for _, l := range Loads {
		add(Cell{Load: l})
	}
	for _, k := range Contents {
		add(Cell{Content: k})
	}
	return all
}

// parseOnly reads what --only says.
func parseOnly(only string) (fits func(Cell) bool, err error) {
	type condition struct {
		of      func(Cell) string
		allowed []string
	}
	var conditions []condition
	for _, word := range strings.FieldsFunc(only, func(r rune) bool { return r == ' ' || r == ',' }) {
		key, list, found := strings.Cut(word, "=")
		of := dimensions[key]
		if !found || of == nil {
			return nil, fmt.Errorf("--only %q: use words like app=cart|redis, with app, owner, strategy, memory, load or content", word)
		}
		allowed := strings.Split(strings.ToLower(list), "|")
		for _, value := range allowed {
			if known := values(of); !slices.Contains(known, value) {
				return nil, fmt.Errorf("--only %q: %s is one of %s, not %q", word, key, strings.Join(known, ", "), value)
			}
		}
		conditions = append(conditions, condition{of, allowed})
	}
	return func(c Cell) bool {
		return !slices.ContainsFunc(conditions, func(one condition) bool { return !slices.Contains(one.allowed, one.of(c)) })
	}, nil
}
