package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// Subject is an application with its owner.
type Subject struct {
	Application matrix.Application
	Owner       matrix.Owner
}

func (s Subject) String() string {
	return fmt.Sprintf("%s (%s)", s.Application, s.Owner)
}

// File is the subject in names of files.
func (s Subject) File() string {
	return strings.ToLower(fmt.Sprintf("%s-%s", s.Application, s.Owner))
}

// centre is the cell around which one dimension is varied at a time.
func (s Subject) centre(strategy matrix.Strategy) matrix.Cell {
	return matrix.Cell{Application: s.Application, Owner: s.Owner, Strategy: strategy, MemoryMB: 512, Load: matrix.Writes, Content: content.Random}
}

// data are all rows, by cell.
type data struct {
	rows  []matrix.Row
	cells map[matrix.Cell][]matrix.Row
}

func newData(rows []matrix.Row) data {
	d := data{rows, map[matrix.Cell][]matrix.Row{}}
	for _, r := range rows {
		d.cells[r.Cell] = append(d.cells[r.Cell], r)
	}
	return d
}

// subjects are those of which anything was measured.
func (d data) subjects() []Subject {
	var found []Subject
	for _, a := range matrix.Applications {
		for _, o := range []matrix.Owner{matrix.StatefulSet, matrix.Deployment} {
			if slices.ContainsFunc(d.rows, func(r matrix.Row) bool { return r.Application == a && r.Owner == o }) {
				found = append(found, Subject{a, o})
			}
		}
	}
	return found
}

// strategies are those that make sense for a subject.
func (s Subject) strategies() []matrix.Strategy {
	return slices.DeleteFunc(slices.Clone(matrix.Strategies), func(strategy matrix.Strategy) bool {
		return s.centre(strategy).Excluded() != ""
	})
}

// of are a subject's rows with a strategy.
func (d data) of(s Subject, strategy matrix.Strategy) []matrix.Row {
	var rows []matrix.Row
	for _, r := range d.rows {
		if r.Application == s.Application && r.Owner == s.Owner && r.Strategy == strategy {
			rows = append(rows, r)
		}
	}
	return rows
}

// downtime is a cell's.
func (d data) downtime(c matrix.Cell) Spread { return spreadOf(all(d.cells[c], downtime)) }

// missing are the cells of a plan of which nothing was measured.
func (d data) missing(planned []matrix.Cell) []matrix.Cell {
	return slices.DeleteFunc(slices.Clone(planned), func(c matrix.Cell) bool { return len(d.cells[c]) > 0 })
}

// distinct are the different texts of all rows, in order.
func (d data) distinct(text func(matrix.Row) string) []string {
	set := map[string]bool{}
	for _, r := range d.rows {
		set[text(r)] = true
	}
	delete(set, "")
	return slices.Sorted(maps.Keys(set))
}
