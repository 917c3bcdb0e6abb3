package stage

import (
	"context"
	"fmt"
	"math"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/experiments/load"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
	"github.com/lifeboat-dev/lifeboat/experiments/move"
	"github.com/lifeboat-dev/lifeboat/experiments/subject"
)

// conclude puts into a row what the clients' log and the outcome tell.
func (a *act) conclude(row *matrix.Row, o move.Outcome, requests []load.Request, begin, end time.Time) {
	row.Result, row.Reason, row.Message = o.Result, o.Reason, o.Message
	longest, silent := load.Longest(load.Silences(requests, o.AskedAt, end), matrix.SilentOver)
	row.SilentMS = milliseconds(silent)
	if row.Result != matrix.ResultNoAnswer {
		row.DowntimeMS = milliseconds(longest.Length())
		if a.run.Load == matrix.Writes {
			held, _ := load.Longest(load.Silences(load.OnlyWrites(requests), o.AskedAt, end), matrix.SilentOver)
			row.WritesMS = milliseconds(held.Length())
		}
	}
	quiet, _ := load.Longest(load.Silences(requests, begin, o.AskedAt), matrix.SilentOver)
	row.BeforeMS = milliseconds(quiet.Length())
	row.TotalMS = milliseconds(o.DoneAt.Sub(o.AskedAt))
	row.PauseMS, row.RPOMS, row.BytesSent = round(o.Pause*1000), round(o.RPO*1000), o.Bytes
	row.Requests, row.Failed = load.Requested(requests, o.AskedAt)
	slices.SortStableFunc(o.Moments, func(a, b move.Moment) int { return a.At.Compare(b.At) })
	for _, m := range o.Moments {
		row.Phases = append(row.Phases, matrix.Phase{Name: m.Name, AfterMS: milliseconds(m.At.Sub(o.AskedAt))})
	}
}

// inspect puts into a row what the application itself holds after the move.
func (a *act) inspect(ctx context.Context, row *matrix.Row, requests []load.Request) error {
	if row.Result == matrix.ResultNoAnswer {
		return nil // nobody is there to be asked
	}
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	counts, err := a.client.Counts(ctx)
	switch {
	case subject.Stateless(err):
		row.Acked = load.Judge(requests, nil).Acked
	case err != nil:
		row.Message = strings.TrimSpace(row.Message + " " + err.Error())
		fallthrough // what cannot be read is not there
	default:
		writes := load.Judge(requests, counts)
		row.Acked, row.Lost, row.Repeated = writes.Acked, len(writes.Lost), len(writes.Repeated)
	}
	wrong, err := a.client.Check(ctx)
	if err != nil {
		row.Message = strings.TrimSpace(row.Message + " " + err.Error())
		return ctx.Err()
	}
	row.WrongPages = float64(wrong)
	return nil
}

func milliseconds(d time.Duration) float64 { return round(float64(d) / float64(time.Millisecond)) }

// round keeps three digits behind the point.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }

// machine says in a few words what is measured on.
func machine() string {
	var name unix.Utsname
	var memory unix.Sysinfo_t
	if unix.Uname(&name) != nil || unix.Sysinfo(&memory) != nil {
		return ""
	}
	release := strings.TrimRight(string(name.Release[:]), "\x00")
	return fmt.Sprintf("Linux %s, %d processors, %d MB of memory", release, runtime.NumCPU(), memory.Totalram*uint64(memory.Unit)>>20)
}

// version names the sources that are measured, as git does; empty where git cannot tell.
func version(ctx context.Context) string {
	text, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
