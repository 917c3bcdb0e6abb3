// Command app runs one of the applications of the experiments:
//
//	app --application cart --content random --bytes 67108864 --rewrite 10
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/experiments/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		slog.Error("the application stopped", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("app", flag.ContinueOnError)
	application := flags.String("application", "cart", "cart or stateless")
	kind := flags.String("content", string(content.Random), "what the memory holds: random, text or zeros")
	size := flags.Int64("bytes", 64<<20, "how much memory is held")
	wait := flags.Bool("wait", false, "do nothing, and keep the pod's place")
	rewrite := flags.Int("rewrite", 0, "percent of it that are rewritten a second")
	listen := flags.String("listen", ":8080", "address to listen on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *wait {
		<-ctx.Done()
		return nil
	}
	parsed, err := content.Parse(*kind)
	if err != nil {
		return err
	}
	var carts *cart.Store
	switch *application {
	case "cart":
		carts = cart.New()
	case "stateless":
	default:
		return fmt.Errorf("--application %q: use cart or stateless", *application)
	}
	a, err := app.New(carts, parsed, *size)
	if err != nil {
		return err
	}
	if *rewrite > 0 {
		go a.Rewrite(ctx, *rewrite)
	}
	return serve(ctx, *listen, a.Handler())
}

// serve listens only now, with the memory filled: before, nobody is to be sent here.
func serve(ctx context.Context, address string, handler http.Handler) error {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // CRIU cannot dump it
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	slog.Info("listening", "address", listener.Addr().String())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(listener) }()
	select {
	case err := <-stopped:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	// What is under way is answered, and who keeps a connection open is not waited for.
	shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := server.Shutdown(shutdown); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stop serving: %w", err)
	}
	return nil
}
