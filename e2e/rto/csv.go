package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/e2e/loss"
)

// columns are those of the CSV file. Times are in seconds since the cut; a field is
// empty for what did not happen or was not measured.
var columns = []struct {
	name  string
	value func(t *trial) string
}{
	{"source", func(t *trial) string { return t.Source }},
	{"target", func(t *trial) string { return t.Target }},
	{"leader_lost", func(t *trial) string { return strconv.FormatBool(t.LeaderLost) }},
	{"declared", since(loss.Declared)},
	{"fenced", since(loss.Fenced)},
	{"deleted", since(loss.Deleted)},
	{"created", since(loss.Created)},
	{"scheduled", since(loss.Scheduled)},
	{"restoring", since(loss.Restoring)},
	{"ready", since(loss.PodReady)},
	{"routed", since(routed)},
	{"first_reply", since(loss.FirstReply)},
	{"rto_lifeboat", func(t *trial) string { return number(t.RTO()) }},
	{"rto_shopper", func(t *trial) string { return number(t.ClientRTO()) }},
	{"rpo_lifeboat", func(t *trial) string { return number(t.RPO()) }},
	{"items_acked", func(t *trial) string { return strconv.Itoa(t.Writes().Acked) }},
	{"items_kept", func(t *trial) string { return strconv.Itoa(t.Writes().Restored) }},
	{"stock_not_ready", ofStock(func(r *stockRecord) time.Time { return r.notReady })},
	{"stock_marked", ofStock(func(r *stockRecord) time.Time { return r.marked })},
	{"stock_power_on", ofStock(func(r *stockRecord) time.Time { return r.powerOn })},
	{"stock_gone", ofStock(func(r *stockRecord) time.Time { return r.gone })},
	{"stock_created", ofStock(func(r *stockRecord) time.Time { return r.created })},
	{"stock_ready", ofStock(func(r *stockRecord) time.Time { return r.ready })},
	{"stock_first_reply", ofStock(func(r *stockRecord) time.Time { return r.firstReply })},
	{"stock_same_process", stockText(func(r *stockRecord) string { return strconv.FormatBool(r.sameProcess()) })},
	{"stock_items_acked", stockText(func(r *stockRecord) string { return strconv.Itoa(r.acked) })},
	{"stock_items_kept", stockText(func(r *stockRecord) string { return strconv.Itoa(r.kept) })},
	{"stock_ticks_at_cut", stockText(func(r *stockRecord) string { return strconv.FormatInt(r.ticks, 10) })},
	{"stock_ticks_after", stockText(func(r *stockRecord) string { return strconv.FormatInt(r.after.Ticks, 10) })},
}

func number(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }

func since(moment string) func(*trial) string {
	return func(t *trial) string {
		if d, known := t.Since(moment); known {
			return number(d)
		}
		return ""
	}
}

func stockText(text func(*stockRecord) string) func(*trial) string {
	return func(t *trial) string {
		if t.stock == nil {
			return ""
		}
		return text(t.stock)
	}
}

func ofStock(moment func(*stockRecord) time.Time) func(*trial) string {
	return func(t *trial) string {
		if t.stock == nil || moment(t.stock).IsZero() {
			return ""
		}
		return number(moment(t.stock).Sub(t.CutAt))
	}
}

// writeCSV writes a line for each loss.
func (r results) writeCSV(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write the losses: %w", err)
	}
	var lines [][]string
	head := []string{"loss"}
	for _, column := range columns {
		head = append(head, column.name)
	}
	lines = append(lines, head)
	for i, t := range r.trials {
		line := []string{strconv.Itoa(i + 1)}
		for _, column := range columns {
			line = append(line, column.value(t))
		}
		lines = append(lines, line)
	}
	if err := errors.Join(csv.NewWriter(f).WriteAll(lines), f.Close()); err != nil {
		return fmt.Errorf("write the losses to %s: %w", file, err)
	}
	return nil
}

// machine says in a line what the figures were measured on.
func machine() string {
	var name unix.Utsname
	var memory unix.Sysinfo_t
	if unix.Uname(&name) != nil || unix.Sysinfo(&memory) != nil {
		return ""
	}
	release := strings.TrimRight(string(name.Release[:]), "\x00")
	return fmt.Sprintf("Linux %s, %d processors, %d MB of memory\n\n", release, runtime.NumCPU(), memory.Totalram*uint64(memory.Unit)>>20)
}
