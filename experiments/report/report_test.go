package report

import (
	"bytes"
	"errors"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

var set = Subject{matrix.Cart, matrix.StatefulSet}

// runs are some runs of the cart with a strategy, one for each downtime.
func runs(strategy matrix.Strategy, memory int, downtimes ...float64) []matrix.Row {
	var rows []matrix.Row
	for i, ms := range downtimes {
		c := set.centre(strategy)
		c.MemoryMB = memory
		r := matrix.NewRow(matrix.Run{Cell: c, Number: i + 1})
		r.Result, r.DowntimeMS, r.SilentMS, r.BeforeMS, r.TotalMS, r.Acked, r.Requests, r.WrongPages = "Restored", ms, ms, 6, 2*ms, 1000, 4000, 0
		r.Phases = []matrix.Phase{{Name: "Stopped", AfterMS: ms / 4}, {Name: "Ready", AfterMS: ms}}
		rows = append(rows, r)
	}
	return rows
}

func join(parts ...[]matrix.Row) (all []matrix.Row) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// write writes a report, and returns its text with the folder that it is in.
func write(t *testing.T, rows []matrix.Row) (text, folder string) {
	t.Helper()
	folder = t.TempDir()
	cells, err := matrix.Options{}.Cells()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Document: filepath.Join(folder, "experiments.md"), Plots: filepath.Join(folder, "plots"), Source: "runs.csv", Planned: cells}
	if err := Write(rows, o); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(o.Document)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw), folder
}

func some() []matrix.Row {
	live, restart := runs(matrix.Live, 512, 180, 200, 220), runs(matrix.Restart, 512, 3000, 3100, 3200)
	for i := range restart {
		restart[i].Result, restart[i].Lost, restart[i].WrongPages = matrix.ResultMoved, 1000, 0
	}
	failed := runs(matrix.Cold, 512, 5)
	failed[0].Result, failed[0].Reason, failed[0].Message = "Withdrawn", "SourceFailed", "the `source` said no"
	return join(live, restart, failed, runs(matrix.Live, 64, 150, 160, 170), runs(matrix.Live, 2048, 250, 260, 270), runs(matrix.Stock, 2048, 2000, 2100, 2200))
}

func has(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("the document does not say %q", want)
		}
	}
}

func TestReportSaysWhatTheDataSay(t *testing.T) {
	text, _ := write(t, some())
	has(t, text,
		"| live | 3 of 3 | 200 (180 to 220) |",
		"live (200 ms), restart (3100 ms). That of live is 15.5 times shorter than that of restart.",
		"The one to take is **live**",
		"The downtime of a plain restart is 15.5 times longer than that of live; it costs: 3000 writes lost.",
		"live: of 200 ms until the new copy is there, 150 ms are up to Ready; its downtime depends on the size of the memory: 1.6 times",
		// 260 / 160 is more than 1.5, 2100 / 260 more than 5.
		"within 1.5 times | **not met** | 1.6 times", "restore at 2 GB | met | 260 (250 to 270) ms against 2100 (2000 to 2200) ms: 8.1 times",
		"of a Deployment's pod, 512 MB, 200 writes a second: at most 300 ms at the median, and no write lost | not measured | 0 of 0 runs",
		"of a StatefulSet's pod: at most 1000 ms at the median, and no write lost | met | 200 (180 to 220) ms; 0 of 3000 writes lost; 3 of 3 runs",
		"cold: 1 of 1 runs ended as Withdrawn SourceFailed. The first said: `the 'source' said no`",
		"| live | Stopped 50, Ready 150 |", "| cold | 0 of 1 | – |", "| warm | missing |",
		"redis (StatefulSet), live: 7 cells",
	)
	for _, never := range []string{"NaN", "Inf", "<no value>", "%!"} {
		if strings.Contains(text, never) {
			t.Errorf("the document says %q", never)
		}
	}
}

func TestWordsFollowTheData(t *testing.T) {
	// Now the restart is the shorter one, and loses nothing.
	text, _ := write(t, join(runs(matrix.Live, 512, 3000, 3100), runs(matrix.Restart, 512, 200, 210)))
	has(t, text, "restart is 14.9 times shorter than that of live", "here **a plain restart is better**", "The one to take is **restart**")
	// And now one cannot tell.
	text, _ = write(t, join(runs(matrix.Live, 512, 200, 300), runs(matrix.Restart, 512, 250, 350)))
	has(t, text, "That of live is not clearly different from that of restart")
	// The shorter one loses writes.
	lossy := runs(matrix.Live, 512, 100)
	lossy[0].Lost = 3
	held := runs(matrix.Warm, 512, 400)
	held[0].WritesMS = 1500
	text, _ = write(t, join(lossy, held))
	has(t, text, "But writers waited 1500 ms: it answered reads alone.")
	has(t, text, "The one to take is **warm**", "Shorter, but not that: live (3 writes lost).")
}

func TestReportIsTheSameEachTime(t *testing.T) {
	first, firstFolder := write(t, some())
	second, secondFolder := write(t, some())
	if first != second {
		t.Error("the same rows gave two documents")
	}
	files, err := filepath.Glob(filepath.Join(firstFolder, "plots", "*"))
	if err != nil || len(files) != len(plotKinds)*len(formats) {
		t.Fatalf("plots: %v (%v)", files, err)
	}
	for _, file := range files {
		one, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		other, err := os.ReadFile(filepath.Join(secondFolder, "plots", filepath.Base(file)))
		if err != nil || !bytes.Equal(one, other) {
			t.Errorf("%s differs (%v)", filepath.Base(file), err)
		}
		if strings.HasSuffix(file, ".png") {
			if _, err := png.Decode(bytes.NewReader(one)); err != nil {
				t.Errorf("%s: %v", filepath.Base(file), err)
			}
		} else if !bytes.Contains(one, []byte("</svg>")) || !bytes.Contains(one, []byte("live")) {
			t.Errorf("%s is no drawing of the strategies", filepath.Base(file))
		}
	}
	for _, link := range regexp.MustCompile(`\]\((plots/[^)]+)\)`).FindAllStringSubmatch(first, -1) {
		if _, err := os.Stat(filepath.Join(firstFolder, link[1])); err != nil {
			t.Error(err)
		}
	}
}

func TestNothingIsNotReported(t *testing.T) {
	if err := Write(nil, Options{}); !errors.Is(err, ErrNothing) {
		t.Error(err)
	}
}

func TestOneRunOfAnyKindCanBeReported(t *testing.T) {
	for _, a := range matrix.Applications {
		for _, result := range []string{"Restored", "Failed"} {
			c := matrix.Cell{Application: a, Owner: matrix.StatefulSet, Strategy: matrix.Failover, MemoryMB: 64, Load: matrix.Idle, Content: content.Zeros}
			r := matrix.NewRow(matrix.Run{Cell: c, Number: 1})
			r.Result, r.DowntimeMS = result, 10
			text, _ := write(t, []matrix.Row{r})
			if strings.Contains(text, "NaN") {
				t.Errorf("%s, %s: the document says NaN", a, result)
			}
		}
	}
}

func TestSpread(t *testing.T) {
	s := spreadOf([]float64{4, math.NaN(), 1, 3, 2})
	if (s != Spread{N: 4, Median: 2.5, Min: 1, Max: 4}) || s.String() != "2.5 (1 to 4)" || spreadOf(nil).String() != "–" {
		t.Errorf("%+v, %s", s, s)
	}
}
