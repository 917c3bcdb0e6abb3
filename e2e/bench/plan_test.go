package main

import (
	"slices"
	"strings"
	"testing"
)

func names(rows []row) []string {
	var all []string
	for _, r := range rows {
		all = append(all, r.name())
	}
	return all
}

func TestPlan(t *testing.T) {
	for name, test := range map[string]struct {
		bench   bench
		options options
		want    []string
	}{
		"all": {benchCheckpoint, options{}, []string{
			"redis 64 MB, idle",
			"random 64 MB, 0 %", "random 64 MB, 1 %", "random 64 MB, 10 %", "text 64 MB, 0 %", "text 64 MB, 1 %", "text 64 MB, 10 %",
			"zeros 64 MB, 0 %", "zeros 64 MB, 1 %", "zeros 64 MB, 10 %",
			"random 1 GB, 0 %", "random 1 GB, 1 %", "random 1 GB, 10 %", "text 1 GB, 1 %", "zeros 1 GB, 1 %",
			"random 4 GB, 1 %",
		}},
		"quick":           {benchCheckpoint, options{quick: true}, []string{"redis 64 MB, idle", "random 64 MB, 1 %"}},
		"restores":        {benchRestore, options{}, []string{"random 64 MB, 1 %", "random 1 GB, 1 %", "random 4 GB, 1 %"}},
		"quick restores":  {benchRestore, options{quick: true}, []string{"random 64 MB, 1 %"}},
		"chosen restores": {benchRestore, options{contents: []string{"zeros"}, sizes: []string{"2G"}}, []string{"zeros 2 GB, 1 %"}},
		"a size":          {benchStore, options{sizes: []string{"4G"}, dirty: []int{5}}, []string{"random 4 GB, 5 %", "text 4 GB, 5 %", "zeros 4 GB, 5 %"}},
		"redis alone":     {benchStore, options{contents: []string{"redis"}}, []string{"redis 64 MB, idle"}},
		"redis and text":  {benchStore, options{contents: []string{"redis", "text"}, sizes: []string{"1m"}, dirty: []int{0}}, []string{"redis 64 MB, idle", "text 1 MB, 0 %"}},
	} {
		rows, err := plan(test.bench, test.options)
		if err != nil || !slices.Equal(names(rows), test.want) {
			t.Errorf("%s: %q, %v, want %q", name, names(rows), err, test.want)
		}
		for _, r := range rows {
			if r.Runs < 1 || r.StockRuns < 1 || r.StockRuns > r.Runs {
				t.Errorf("%s: %s is measured %d times, runc %d times", name, r.name(), r.Runs, r.StockRuns)
			}
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for want, o := range map[string]options{
		`--sizes: "64" is no size`:         {sizes: []string{"64"}},
		`--sizes: "0M" is no size`:         {sizes: []string{"0M"}},
		`--sizes: "-1G" is no size`:        {sizes: []string{"-1G"}},
		`--content: "noise" is no content`: {contents: []string{"noise"}},
		"--dirty: 101 %":                   {dirty: []int{101}},
		"--dirty: -1 %":                    {dirty: []int{-1}},
		"--runs: -1":                       {runs: -1},
	} {
		if _, err := plan(benchCheckpoint, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error with %q", o, err, want)
		}
	}
	if _, err := plan(benchRestore, options{contents: []string{"redis"}}); err == nil {
		t.Error("no row at all is a plan")
	}
}

func TestStockIsMeasuredAsOftenAsPlanned(t *testing.T) {
	for runs := 1; runs < 30; runs++ {
		for stockRuns := 1; stockRuns <= runs; stockRuns++ {
			at := row{Runs: runs, StockRuns: stockRuns}
			n := 0
			for run := range runs {
				if at.withStock(run) {
					n++
				}
			}
			if n != stockRuns {
				t.Errorf("%d of %d runs are with runc, want %d", n, runs, stockRuns)
			}
		}
	}
}
