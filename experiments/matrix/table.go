package matrix

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// columns are those of the table's file. Field returns a pointer into a row.
var columns = []struct {
	name  string
	field func(*Row) any
}{
	{"application", func(r *Row) any { return (*string)(&r.Application) }},
	{"owner", func(r *Row) any { return (*string)(&r.Owner) }},
	{"strategy", func(r *Row) any { return (*string)(&r.Strategy) }},
	{"memory_mb", func(r *Row) any { return &r.MemoryMB }},
	{"load", func(r *Row) any { return (*string)(&r.Load) }},
	{"content", func(r *Row) any { return (*string)(&r.Content) }},
	{"run", func(r *Row) any { return &r.Number }},
	{"at", func(r *Row) any { return &r.At }},
	{"took_s", func(r *Row) any { return &r.TookSeconds }},
	{"machine", func(r *Row) any { return &r.Machine }},
	{"version", func(r *Row) any { return &r.Version }},
	{"result", func(r *Row) any { return &r.Result }},
	{"reason", func(r *Row) any { return &r.Reason }},
	{"message", func(r *Row) any { return &r.Message }},
	{"downtime_ms", func(r *Row) any { return &r.DowntimeMS }},
	{"writes_ms", func(r *Row) any { return &r.WritesMS }},
	{"silent_ms", func(r *Row) any { return &r.SilentMS }},
	{"before_ms", func(r *Row) any { return &r.BeforeMS }},
	{"total_ms", func(r *Row) any { return &r.TotalMS }},
	{"pause_ms", func(r *Row) any { return &r.PauseMS }},
	{"bytes_sent", func(r *Row) any { return &r.BytesSent }},
	{"rpo_ms", func(r *Row) any { return &r.RPOMS }},
	{"requests", func(r *Row) any { return &r.Requests }},
	{"failed", func(r *Row) any { return &r.Failed }},
	{"acked", func(r *Row) any { return &r.Acked }},
	{"lost", func(r *Row) any { return &r.Lost }},
	{"repeated", func(r *Row) any { return &r.Repeated }},
	{"wrong_pages", func(r *Row) any { return &r.WrongPages }},
	{"rewritten_mb_s", func(r *Row) any { return &r.RewrittenMBs }},
	{"phases", func(r *Row) any { return &r.Phases }},
}

// Table is the file with a row for each run. It is all that the matrix remembers.
type Table struct {
	file string
	Rows []Row
}

// Open reads a table. There need not be a file yet.
func Open(file string) (*Table, error) {
	t := &Table{file: file}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the table of runs: %w", err)
	}
	lines, err := csv.NewReader(bytes.NewReader(raw)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read the table of runs %s: %w", file, err)
	}
	for i, line := range lines {
		if i == 0 {
			if !slices.Equal(line, head()) {
				return nil, fmt.Errorf("read the table of runs %s: its columns are those of another version; move it away, or write to another file", file)
			}
			continue
		}
		row, err := decode(line)
		if err != nil {
			return nil, fmt.Errorf("read the table of runs %s: line %d: %w", file, i+1, err)
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}

// Has says whether a run was measured.
func (t *Table) Has(run Run) bool {
	return slices.ContainsFunc(t.Rows, func(r Row) bool { return r.Run == run })
}

// Missing are the runs of a plan that were not measured, in its order.
func (t *Table) Missing(plan []Run) []Run {
	done := map[Run]bool{}
	for _, r := range t.Rows {
		done[r.Run] = true
	}
	return slices.DeleteFunc(slices.Clone(plan), func(r Run) bool { return done[r] })
}

// Add writes a row to the file, which has it when Add returns. The whole file is
// replaced: it is small, and no line can be torn then.
func (t *Table) Add(row Row) error {
	t.Rows = append(t.Rows, row)
	var text bytes.Buffer
	w := csv.NewWriter(&text)
	lines := [][]string{head()}
	for i := range t.Rows {
		lines = append(lines, encode(&t.Rows[i]))
	}
	if err := w.WriteAll(lines); err != nil {
		return fmt.Errorf("write the table of runs: %w", err)
	}
	if err := replace(t.file, text.Bytes()); err != nil {
		return fmt.Errorf("write the table of runs: %w", err)
	}
	return nil
}

func replace(file string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	fresh, err := os.CreateTemp(filepath.Dir(file), ".runs-")
	if err != nil {
		return err
	}
	defer os.Remove(fresh.Name())
	_, err = fresh.Write(text)
	if err := errors.Join(err, fresh.Chmod(0o644), fresh.Sync(), fresh.Close()); err != nil {
		return err
	}
	return os.Rename(fresh.Name(), file)
}

func head() []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return names
}

func encode(r *Row) []string {
	line := make([]string, len(columns))
	for i, c := range columns {
		switch field := c.field(r).(type) {
		case *string:
			// One line of the file is one run.
			line[i] = strings.Join(strings.Fields(*field), " ")
		case *int:
			line[i] = strconv.Itoa(*field)
		case *float64:
			if Known(*field) {
				line[i] = strconv.FormatFloat(*field, 'f', -1, 64)
			}
		case *time.Time:
			line[i] = field.UTC().Format(time.RFC3339)
		case *[]Phase:
			words := make([]string, len(*field))
			for j, p := range *field {
				words[j] = p.Name + "=" + strconv.FormatFloat(p.AfterMS, 'f', -1, 64)
			}
			line[i] = strings.Join(words, " ")
		}
	}
	return line
}

func decode(line []string) (Row, error) {
	r := NewRow(Run{})
	for i, c := range columns {
		text := line[i]
		var err error
		switch field := c.field(&r).(type) {
		case *string:
			*field = text
		case *int:
			*field, err = strconv.Atoi(text)
		case *float64:
			if text != "" {
				*field, err = strconv.ParseFloat(text, 64)
			}
		case *time.Time:
			*field, err = time.Parse(time.RFC3339, text)
		case *[]Phase:
			for _, word := range strings.Fields(text) {
				name, after, _ := strings.Cut(word, "=")
				p := Phase{Name: name}
				if p.AfterMS, err = strconv.ParseFloat(after, 64); err != nil {
					break
				}
				*field = append(*field, p)
			}
		}
		if err != nil {
			return r, fmt.Errorf("column %s: %w", c.name, err)
		}
	}
	return r, nil
}
