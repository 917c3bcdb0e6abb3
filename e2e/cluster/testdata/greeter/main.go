// Command greeter is a workload for tests of the cluster: it logs that it is there, and
// answers HTTP requests on port 8080 with its host name. "greeter say WORD" prints WORD,
// "greeter ask URL" prints what another one answers.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "say" {
		fmt.Println(os.Args[2])
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "ask" {
		if err := ask(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "greeter:", err)
			os.Exit(1)
		}
		return
	}
	name, err := os.Hostname()
	if err != nil {
		fmt.Fprintln(os.Stderr, "greeter:", err)
		os.Exit(1)
	}
	fmt.Println("greetings from", name)
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
	fmt.Fprintln(os.Stderr, "greeter:", http.ListenAndServe(":8080", nil))
	os.Exit(1)
}

func ask(url string) error {
	response, err := (&http.Client{Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}
