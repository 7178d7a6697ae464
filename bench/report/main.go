// Command report turns the JSON reports of idmount bench into tables: one
// report, or several pieces of a long run, on the same machine.
//
//	go run ./bench/report FILE...                        all tables, as Markdown
//	go run ./bench/report -json ALL FILE...              the pieces as one report
//	go run ./bench/report -html PAGE FILE...             a page with charts
//	go run ./bench/report -update docs/performance.md FILE...
//
// -update replaces what stands in a document between "<!-- bench: NAME -->" and
// "<!-- /bench -->", so that no figure is written by hand.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/idmount/idmount/bench"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	update := flags.String("update", "", "replace the tables in this Markdown `file`")
	asJSON := flags.String("json", "", "write one report to this `file`")
	asHTML := flags.String("html", "", "write a page with charts to this `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("no report is named")
	}
	report, err := read(flags.Args())
	if err != nil {
		return err
	}
	for name, write := range map[string]func(io.Writer) error{*asJSON: report.WriteJSON, *asHTML: report.WriteHTML} {
		if name == "" {
			continue
		}
		var text bytes.Buffer
		if err := write(&text); err != nil {
			return err
		}
		if err := os.WriteFile(name, text.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if *update != "" {
		old, err := os.ReadFile(*update)
		if err != nil {
			return err
		}
		text, err := bench.UpdateTables(string(old), report)
		if err != nil {
			return fmt.Errorf("%s: %w", *update, err)
		}
		return os.WriteFile(*update, []byte(text), 0o644)
	}
	if *asJSON != "" || *asHTML != "" {
		return nil
	}
	return bench.WriteTables(stdout, report)
}

func read(names []string) (*bench.Report, error) {
	var all *bench.Report
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		one, err := bench.ReadJSON(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if all == nil {
			all = one
		} else if err := all.Merge(one); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return all, nil
}
