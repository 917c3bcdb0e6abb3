package report

import (
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// The size of a plot, and the formats that each is written in.
const (
	plotWidth, plotHeight = 19 * vg.Centimeter, 10 * vg.Centimeter
	// legendWidth is how much of it is beside the plot, for the legend.
	legendWidth = 3 * vg.Centimeter
)

var formats = []string{"svg", "png"}

// plotKind is one plot of each subject.
type plotKind struct {
	name, title string
	draw        func(d data, s Subject, p *plot.Plot) error
}

var plotKinds = []plotKind{
	{"memory", "Downtime by size of the memory", drawMemory},
	{"strategy", "Downtime by strategy, each run a point, 512 MB", drawStrategies},
	{"phases", "Phases, medians, 512 MB", drawPhases},
	{"distribution", "Downtime, cumulative distribution over all runs", drawDistribution},
}

// errEmpty is returned by a plot that would show nothing.
var errEmpty = errors.New("there is nothing to show")

// writePlots writes the plots of a subject into a folder, and returns the names of those
// that show something, without their endings.
func (d data) writePlots(folder string, s Subject) (names []string, err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("write the plots: %w", err)
	}
	for _, kind := range plotKinds {
		p := plot.New()
		p.Title.Text = fmt.Sprintf("%s: %s", kind.title, s)
		p.Add(plotter.NewGrid())
		err := kind.draw(d, s, p)
		if errors.Is(err, errEmpty) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("draw %s of %s: %w", kind.name, s, err)
		}
		name := s.File() + "-" + kind.name
		for _, format := range formats {
			if err := save(p, format, filepath.Join(folder, name+"."+format)); err != nil {
				return nil, fmt.Errorf("write plot %s: %w", name, err)
			}
		}
		names = append(names, name)
	}
	return names, nil
}

// save writes a plot with its legend beside it, where it hides nothing.
func save(p *plot.Plot, format, file string) error {
	canvas, err := draw.NewFormattedCanvas(plotWidth, plotHeight, format)
	if err != nil {
		return err
	}
	all := draw.New(canvas)
	all.SetColor(color.White)
	all.Fill(all.Path())
	legend := p.Legend
	p.Legend = plot.NewLegend()
	p.Draw(draw.Crop(all, 0, -legendWidth, vg.Millimeter, 0))
	legend.Top, legend.Left = true, true
	legend.Draw(draw.Crop(all, plotWidth-legendWidth+2*vg.Millimeter, 0, 0, -vg.Centimeter))
	p.Legend = legend
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = canvas.WriteTo(f)
	return errors.Join(err, f.Close())
}

// palette tells apart what is in one plot. It has more colours than there are strategies,
// or phases of one.
var palette = slices.Concat(plotutil.SoftColors, plotutil.DarkColors)

// style is the same for a strategy in every plot.
func style(s matrix.Strategy) int { return slices.Index(matrix.Strategies, s) }

// colorOf is a strategy's colour.
func colorOf(s matrix.Strategy) color.Color { return palette[style(s)] }

// shown is a time on an axis that ends at a millisecond.
func shown(ms float64) float64 { return math.Max(ms, 1) }

// milliseconds makes an axis one of times from one millisecond on.
func milliseconds(a *plot.Axis) {
	a.Label.Text = "ms"
	a.Scale = plot.LogScale{}
	a.Tick.Marker = plot.TickerFunc(ticks)
}

// ticks are 1, 2 and 5 of each power of ten.
func ticks(least, most float64) (list []plot.Tick) {
	for power := math.Pow10(int(math.Floor(math.Log10(least)))); power <= most; power *= 10 {
		for _, digit := range []float64{1, 2, 5} {
			if value := digit * power; value >= least && value <= most {
				list = append(list, plot.Tick{Value: value, Label: fmt.Sprintf("%.0f", value)})
			}
		}
	}
	return list
}

func drawMemory(d data, s Subject, p *plot.Plot) error {
	milliseconds(&p.Y)
	empty := true
	var names []string
	for _, memory := range matrix.Memories {
		names = append(names, fmt.Sprintf("%d MB", memory))
	}
	p.NominalX(names...)
	for _, strategy := range s.strategies() {
		var points errorPoints
		for i, memory := range matrix.Memories {
			c := s.centre(strategy)
			c.MemoryMB = memory
			if spread := d.downtime(c); spread.Measured() {
				// Beside each other, so that their bars can be told apart.
				x := float64(i) + 0.04*float64(style(strategy)-len(matrix.Strategies)/2)
				points.XYs = append(points.XYs, plotter.XY{X: x, Y: shown(spread.Median)})
				points.YErrors = append(points.YErrors, struct{ Low, High float64 }{
					shown(spread.Median) - shown(spread.Min), shown(spread.Max) - shown(spread.Median),
				})
			}
		}
		if len(points.XYs) == 0 {
			continue
		}
		empty = false
		line, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		bars, err := plotter.NewYErrorBars(points)
		if err != nil {
			return err
		}
		line.Color, line.Dashes = colorOf(strategy), plotutil.Dashes(style(strategy))
		marks.Color, marks.Shape = colorOf(strategy), plotutil.Shape(style(strategy))
		bars.Color = colorOf(strategy)
		p.Add(bars, line, marks)
		p.Legend.Add(string(strategy), line, marks)
	}
	if empty {
		return errEmpty
	}
	return nil
}

// errorPoints are medians with their least and their greatest measurement.
type errorPoints struct {
	plotter.XYs
	plotter.YErrors
}

func drawStrategies(d data, s Subject, p *plot.Plot) error {
	milliseconds(&p.Y)
	var names []string
	for _, strategy := range s.strategies() {
		var points plotter.XYs
		for _, row := range d.cells[s.centre(strategy)] {
			if ms := downtime(row); matrix.Known(ms) {
				points = append(points, plotter.XY{X: float64(len(names)) + 0.05*float64(row.Number%5-2), Y: shown(ms)})
			}
		}
		if len(points) == 0 {
			continue
		}
		scatter, err := plotter.NewScatter(points)
		if err != nil {
			return err
		}
		scatter.Color, scatter.Shape = colorOf(strategy), draw.CircleGlyph{}
		p.Add(scatter)
		names = append(names, string(strategy))
	}
	if len(names) == 0 {
		return errEmpty
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.5, float64(len(names))-0.5
	return nil
}

func drawPhases(d data, s Subject, p *plot.Plot) error {
	p.X.Label.Text = "ms since the move was asked for"
	var names []string
	var stacks [][]Step
	var phases []string
	for _, strategy := range s.strategies() {
		list := steps(d.cells[s.centre(strategy)])
		if len(list) == 0 {
			continue
		}
		names, stacks = append(names, string(strategy)), append(stacks, list)
		for _, step := range list {
			if !slices.Contains(phases, step.Name) {
				phases = append(phases, step.Name)
			}
		}
	}
	if len(names) == 0 {
		return errEmpty
	}
	// A phase has another place in each strategy, so the bars are stacked by place, one
	// strategy at a time.
	legend := map[string]bool{}
	for row, list := range stacks {
		var below *plotter.BarChart
		for _, step := range list {
			values := make(plotter.Values, len(stacks))
			values[row] = step.MS
			bar, err := plotter.NewBarChart(values, 0.7*vg.Centimeter)
			if err != nil {
				return err
			}
			bar.Horizontal, bar.LineStyle.Width = true, 0
			bar.Color = palette[slices.Index(phases, step.Name)%len(palette)]
			if below != nil {
				bar.StackOn(below)
			}
			below = bar
			p.Add(bar)
			if !legend[step.Name] {
				legend[step.Name] = true
				p.Legend.Add(step.Name, bar)
			}
		}
	}
	p.NominalY(names...)
	return nil
}

func drawDistribution(d data, s Subject, p *plot.Plot) error {
	milliseconds(&p.X)
	p.Y.Label.Text = "share of the runs"
	p.Y.Min, p.Y.Max = 0, 1
	empty := true
	for _, strategy := range s.strategies() {
		known := slices.DeleteFunc(all(d.of(s, strategy), downtime), func(ms float64) bool { return !matrix.Known(ms) })
		if len(known) == 0 {
			continue
		}
		empty = false
		slices.Sort(known)
		points := plotter.XYs{{X: shown(known[0]), Y: 0}}
		for i, ms := range known {
			points = append(points, plotter.XY{X: shown(ms), Y: float64(i+1) / float64(len(known))})
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return err
		}
		line.StepStyle = plotter.PostStep
		line.Color, line.Dashes = colorOf(strategy), plotutil.Dashes(style(strategy))
		p.Add(line)
		p.Legend.Add(string(strategy), line)
	}
	if empty {
		return errEmpty
	}
	return nil
}
