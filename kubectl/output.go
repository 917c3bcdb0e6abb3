package kubectl

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// output is in which form a command prints objects: kubectl's own forms, and a table
// where none is named.
type output struct {
	flags     *genericclioptions.PrintFlags
	scheme    *runtime.Scheme
	noHeaders bool
}

const wide = "wide"

// outputFlags adds -o to a command, and --no-headers where it prints tables.
func outputFlags(cmd *cobra.Command, tables bool) *output {
	o := &output{flags: genericclioptions.NewPrintFlags("")}
	o.flags.AddFlags(cmd)
	formats := o.flags.AllowedFormats()
	if tables {
		formats = append(formats, wide)
		cmd.Flags().BoolVar(&o.noHeaders, "no-headers", false, "Print tables without their headers.")
	}
	slices.Sort(formats)
	cmd.Flag("output").Usage = fmt.Sprintf("Output format. One of: (%s).", strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, noFiles))
	return o
}

func (o *output) format() string { return *o.flags.OutputFormat }

// text is whether the output is for people.
func (o *output) text() bool { return o.format() == "" || o.format() == wide }

// printer is for every form but text. A form that is not known is the caller's error.
func (o *output) printer() (printers.ResourcePrinter, error) {
	printer, err := o.flags.ToPrinter()
	if err != nil {
		return nil, usage("%w", err)
	}
	return printer, nil
}

// checkFormat refuses a form that is not known, before anything is done.
func (o *output) checkFormat() error {
	if o.text() {
		return nil
	}
	_, err := o.printer()
	return err
}

// objects prints a list of objects.
func (o *output) objects(out io.Writer, objects []client.Object) error {
	if o.format() == "name" {
		for _, object := range objects {
			if err := o.object(out, object); err != nil {
				return err
			}
		}
		return nil
	}
	list := &corev1.List{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}, Items: []runtime.RawExtension{}}
	for _, object := range objects {
		if err := o.setType(object); err != nil {
			return err
		}
		list.Items = append(list.Items, runtime.RawExtension{Object: object})
	}
	printer, err := o.printer()
	if err != nil {
		return err
	}
	return printer.PrintObj(list, out)
}

// object prints one object.
func (o *output) object(out io.Writer, object client.Object) error {
	if err := o.setType(object); err != nil {
		return err
	}
	printer, err := o.printer()
	if err != nil {
		return err
	}
	return printer.PrintObj(object, out)
}

// setType gives an object its kind, which the client leaves out, and hides who wrote
// which of its fields, as kubectl does.
func (o *output) setType(object client.Object) error {
	if o.scheme == nil {
		scheme, err := newScheme()
		if err != nil {
			return err
		}
		o.scheme = scheme
	}
	kind, err := apiutil.GVKForObject(object, o.scheme)
	if err != nil {
		return err
	}
	object.GetObjectKind().SetGroupVersionKind(kind)
	if !o.flags.JSONYamlPrintFlags.ShowManagedFields {
		object.SetManagedFields(nil)
	}
	return nil
}

// table is printed as kubectl prints its own.
type table struct {
	columns []metav1.TableColumnDefinition
	rows    []metav1.TableRow
}

// newTable makes a table of columns; one whose name begins with + is for -o wide alone.
func newTable(columns ...string) *table {
	t := &table{}
	for _, name := range columns {
		column := metav1.TableColumnDefinition{Name: name, Type: "string"}
		if rest, ok := strings.CutPrefix(name, "+"); ok {
			column.Name, column.Priority = rest, 1
		}
		t.columns = append(t.columns, column)
	}
	return t
}

// row adds a row. What nothing is known of is shown as kubectl shows it.
func (t *table) row(cells ...string) {
	row := metav1.TableRow{}
	for _, cell := range cells {
		if cell == "" {
			cell = "<none>"
		}
		row.Cells = append(row.Cells, oneLine(cell))
	}
	t.rows = append(t.rows, row)
}

// layout is how tables are printed.
type layout struct {
	namespaces, noHeaders, wide bool
	now                         time.Time
}

// columns begins a table's columns with the namespace, where those of all are listed.
func (l layout) columns(names ...string) []string {
	if l.namespaces {
		return append([]string{"namespace"}, names...)
	}
	return names
}

// cells does the same with a row.
func (l layout) cells(namespace string, cells []string) []string {
	if l.namespaces {
		return append([]string{namespace}, cells...)
	}
	return cells
}

// tables prints tables of the same columns one below the other, under one header.
type tables struct {
	out interface {
		io.Writer
		Flush() error
	}
	printer printers.ResourcePrinter
}

func (l layout) tables(out io.Writer) *tables {
	return &tables{printers.GetNewTabWriter(out), printers.NewTablePrinter(printers.PrintOptions{NoHeaders: l.noHeaders, Wide: l.wide})}
}

// print writes a table at once: its columns are at least as wide as those before it.
func (p *tables) print(t *table) error {
	if err := p.printer.PrintObj(&metav1.Table{ColumnDefinitions: t.columns, Rows: t.rows}, p.out); err != nil {
		return err
	}
	return p.out.Flush()
}

// print writes one table.
func (t *table) print(out io.Writer, l layout) error {
	written := l.tables(out)
	return written.print(t)
}
