package report

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// Options say where a report goes.
type Options struct {
	// Document is the Markdown file, Plots the folder with its plots. Both are written anew.
	Document, Plots string
	// Source is the table of runs, as the document names it.
	Source string
	// Planned are the cells that were to be measured: those without a run are said to
	// be missing.
	Planned []matrix.Cell
}

// ErrNothing is returned for a table without a run: there is nothing to report.
var ErrNothing = errors.New("no run was measured yet")

//go:embed experiments.md.tmpl
var text string

var document = template.Must(template.New("experiments").Parse(text))

// Write writes the document and its plots. Both follow from the rows alone.
func Write(rows []matrix.Row, o Options) error {
	if len(rows) == 0 {
		return ErrNothing
	}
	d := newData(rows)
	v, err := d.view(o)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := document.Execute(&out, v); err != nil {
		return fmt.Errorf("write %s: %w", o.Document, err)
	}
	if err := os.WriteFile(o.Document, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// view is what the document's template shows.
type view struct {
	Source             string
	Runs               int
	Machines, Versions string
	Planned, Measured  int
	Missing            []string
	Noise              Spread
	Aims               []aim
	Chosen             []chosen
	Subjects           []subjectView
	Failures           []string
}

// chosen is a line of the table of which strategy to take.
type chosen struct {
	Subject  Subject
	Sentence string
}

// subjectView is the section of one subject.
type subjectView struct {
	Subject
	Strategies  []strategyLine
	Phases      []phaseLine
	Variations  []variation
	Plots       []plotLink
	Findings    []string
	NotMeasured []string
}

// strategyLine is a strategy's line of figures at the centre.
type strategyLine struct {
	Strategy                                    matrix.Strategy
	Moved                                       string
	Downtime, Writes, Silent, Total, Pause, RPO Spread
	SentMB                                      Spread
	Failed, Lost, Repeated                      string
	WrongPages                                  Spread
}

// phaseLine has how long each phase of a strategy took.
type phaseLine struct {
	Strategy matrix.Strategy
	Steps    string
}

// variation is a table in which one dimension varies.
type variation struct {
	Title  string
	Values []string
	Lines  []variationLine
}

// variationLine has a strategy's downtime for each value.
type variationLine struct {
	Strategy  matrix.Strategy
	Downtimes []string
}

type plotLink struct{ Title, Path string }

func (d data) view(o Options) (view, error) {
	v := view{
		Source: o.Source, Runs: len(d.rows), Planned: len(o.Planned),
		Machines: strings.Join(d.distinct(func(r matrix.Row) string { return r.Machine }), "; "),
		Versions: strings.Join(d.distinct(func(r matrix.Row) string { return r.Version }), ", "),
		Noise:    spreadOf(all(d.rows, func(r matrix.Row) float64 { return r.BeforeMS })),
		Aims:     d.aims(), Failures: d.failures(),
	}
	missing := d.missing(o.Planned)
	v.Measured = len(o.Planned) - len(missing)
	v.Missing = grouped(missing)
	for _, s := range d.subjects() {
		plots, err := d.writePlots(o.Plots, s)
		if err != nil {
			return v, err
		}
		part := subjectView{Subject: s, Findings: d.findings(s), Variations: d.variations(s)}
		for _, strategy := range s.strategies() {
			part.Strategies = append(part.Strategies, d.line(s, strategy))
			if list := steps(d.cells[s.centre(strategy)]); len(list) > 0 {
				words := make([]string, len(list))
				for i, step := range list {
					words[i] = fmt.Sprintf("%s %s", step.Name, number(step.MS))
				}
				part.Phases = append(part.Phases, phaseLine{strategy, strings.Join(words, ", ")})
			}
		}
		for _, strategy := range matrix.Strategies {
			if why := s.centre(strategy).Excluded(); why != "" {
				part.NotMeasured = append(part.NotMeasured, fmt.Sprintf("%s: %s", strategy, why))
			}
		}
		folder, err := filepath.Rel(filepath.Dir(o.Document), o.Plots)
		if err != nil {
			return v, fmt.Errorf("link the plots: %w", err)
		}
		for _, name := range plots {
			part.Plots = append(part.Plots, plotLink{strings.ReplaceAll(name, "-", " "), filepath.ToSlash(filepath.Join(folder, name+".svg"))})
		}
		if ranking := d.ranking(s); len(ranking) > 0 {
			v.Chosen = append(v.Chosen, chosen{s, choice(ranking)})
		}
		v.Subjects = append(v.Subjects, part)
	}
	return v, nil
}

// line has a strategy's figures at the centre.
func (d data) line(s Subject, strategy matrix.Strategy) strategyLine {
	rows := d.cells[s.centre(strategy)]
	of := func(measure func(matrix.Row) float64) Spread { return spreadOf(all(rows, measure)) }
	share := func(part, whole int) string {
		if len(rows) == 0 {
			return "–"
		}
		return fmt.Sprintf("%d of %d", part, whole)
	}
	acked := sum(rows, func(r matrix.Row) int { return r.Acked })
	l := strategyLine{
		Strategy: strategy, Downtime: of(downtime),
		Writes: spreadOf(all(rows, writesHeld)),
		Silent: of(func(r matrix.Row) float64 { return r.SilentMS }), Total: of(func(r matrix.Row) float64 { return r.TotalMS }),
		Pause: of(func(r matrix.Row) float64 { return r.PauseMS }), RPO: of(func(r matrix.Row) float64 { return r.RPOMS }),
		SentMB:     of(func(r matrix.Row) float64 { return r.BytesSent / (1 << 20) }),
		WrongPages: of(func(r matrix.Row) float64 { return r.WrongPages }),
		Moved:      "missing",
		Failed:     share(sum(rows, func(r matrix.Row) int { return r.Failed }), sum(rows, func(r matrix.Row) int { return r.Requests })),
		Lost:       share(sum(rows, func(r matrix.Row) int { return r.Lost }), acked),
		Repeated:   share(sum(rows, func(r matrix.Row) int { return r.Repeated }), acked),
	}
	if len(rows) > 0 {
		l.Moved = fmt.Sprintf("%d of %d", l.Downtime.N, len(rows))
	}
	return l
}

// variations are the tables of a subject in which one dimension varies.
func (d data) variations(s Subject) []variation {
	memory, load, kind := variation{Title: "memory, random bytes, 200 writes a second"}, variation{Title: "load, 512 MB of random bytes"}, variation{Title: "content, 512 MB, 200 writes a second"}
	for _, m := range matrix.Memories {
		memory.Values = append(memory.Values, fmt.Sprintf("%d MB", m))
	}
	for _, l := range matrix.Loads {
		load.Values = append(load.Values, string(l))
	}
	for _, k := range matrix.Contents {
		kind.Values = append(kind.Values, string(k))
	}
	for _, strategy := range s.strategies() {
		of := func(change func(c *matrix.Cell)) string {
			c := s.centre(strategy)
			change(&c)
			if len(d.cells[c]) == 0 {
				return "missing"
			}
			return d.downtime(c).String()
		}
		byMemory, byLoad, byContent := variationLine{Strategy: strategy}, variationLine{Strategy: strategy}, variationLine{Strategy: strategy}
		for _, m := range matrix.Memories {
			byMemory.Downtimes = append(byMemory.Downtimes, of(func(c *matrix.Cell) { c.MemoryMB = m }))
		}
		for _, l := range matrix.Loads {
			byLoad.Downtimes = append(byLoad.Downtimes, of(func(c *matrix.Cell) { c.Load = l }))
		}
		for _, k := range matrix.Contents {
			byContent.Downtimes = append(byContent.Downtimes, of(func(c *matrix.Cell) { c.Content = k }))
		}
		memory.Lines, load.Lines, kind.Lines = append(memory.Lines, byMemory), append(load.Lines, byLoad), append(kind.Lines, byContent)
	}
	return []variation{memory, load, kind}
}

// failures are the runs that did not move their application, those of a kind together.
func (d data) failures() []string {
	type kind struct {
		subject  Subject
		strategy matrix.Strategy
		result   string
	}
	counts, messages := map[kind]int{}, map[kind]string{}
	var order []kind
	for _, r := range d.rows {
		if r.Succeeded() {
			continue
		}
		k := kind{Subject{r.Application, r.Owner}, r.Strategy, strings.TrimSpace(r.Result + " " + r.Reason)}
		if counts[k] == 0 {
			order = append(order, k)
			messages[k] = r.Message
		}
		counts[k]++
	}
	var list []string
	for _, k := range order {
		list = append(list, fmt.Sprintf("%s, %s: %d of %d runs ended as %s. The first said: %s", k.subject, k.strategy, counts[k], len(d.of(k.subject, k.strategy)), k.result, quoted(messages[k])))
	}
	return list
}

// messageLimit is how much of a message is shown.
const messageLimit = 300

// quoted is a message in a document: no part of it is markup.
func quoted(message string) string {
	if message == "" {
		return "nothing."
	}
	if len(message) > messageLimit {
		message = strings.ToValidUTF8(message[:messageLimit], "") + "…"
	}
	return "`" + strings.ReplaceAll(message, "`", "'") + "`"
}

// grouped lists cells, those of a subject and strategy together.
func grouped(cells []matrix.Cell) []string {
	type group struct {
		subject  Subject
		strategy matrix.Strategy
	}
	counts := map[group]int{}
	var order []group
	for _, c := range cells {
		g := group{Subject{c.Application, c.Owner}, c.Strategy}
		if counts[g] == 0 {
			order = append(order, g)
		}
		counts[g]++
	}
	var list []string
	for _, g := range order {
		list = append(list, fmt.Sprintf("%s, %s: %d cells", g.subject, g.strategy, counts[g]))
	}
	return list
}
