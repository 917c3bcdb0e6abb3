package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// row is a scenario's row in the table, in the order of columns.
type row [9]string

var columns = row{"scenario", "what goes wrong", "verdict", "recoveries", "RTO", "longest standstill", "steps lost (seen)", "two copies", "notes"}

// print writes the table for a terminal, without what goes wrong.
func printTable(out io.Writer, rows []row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range append([]row{columns}, rows...) {
		fmt.Fprintln(w, strings.Join(append(r[:1:1], r[2:]...), "\t"))
	}
	return w.Flush()
}

// The marks of the table in the documentation.
const (
	beginMark = "<!-- chaos: begin -->\n"
	endMark   = "<!-- chaos: end -->"
)

// writeTable puts rows into the table of a document, between its marks. Rows of
// scenarios that were not run now stay as they are; all are in the order of names.
func writeTable(path string, rows []row, names []string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	before, rest, begins := strings.Cut(string(text), beginMark)
	old, after, ends := strings.Cut(rest, endMark)
	if !begins || !ends {
		return fmt.Errorf("write the table: %s lacks the lines %q and %q", path, strings.TrimSpace(beginMark), endMark)
	}
	known := map[string]row{}
	for line := range strings.Lines(old) {
		if r, ok := parseRow(line); ok {
			known[r[0]] = r
		}
	}
	for _, r := range rows {
		known[r[0]] = r
	}
	var table strings.Builder
	table.WriteString(columns.markdown())
	table.WriteString(strings.Repeat("|---", len(columns)) + "|\n")
	for _, name := range names {
		if r, found := known[name]; found {
			table.WriteString(r.markdown())
		}
	}
	if err := os.WriteFile(path, []byte(before+beginMark+table.String()+endMark+after), 0o644); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}

func (r row) markdown() string {
	cells := make([]string, len(r))
	for i, cell := range r {
		cells[i] = strings.NewReplacer("|", "/", "\n", " ").Replace(cell)
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// parseRow reads a row that markdown wrote.
func parseRow(line string) (row, bool) {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, "| ") || !strings.HasSuffix(line, " |") {
		return row{}, false
	}
	cells := strings.Split(line[2:len(line)-2], " | ")
	if len(cells) != len(row{}) {
		return row{}, false
	}
	return row(cells), true
}
