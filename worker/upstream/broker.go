package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Dials and answers are one packet each, on a SOCK_SEQPACKET socket.
const maxDialPacket = 4 << 10

// A dialAnswer comes with the connected socket, unless it has an error.
type dialAnswer struct {
	Error *Error `json:"error,omitempty"`
}

// ServeDials dials for a process that cannot do that itself, by the rules of
// c, until conn or ctx ends: the process gets sockets that are connected. So
// what upstream makes of that process, it reaches no address that upstream
// could not have named.
func (c *Client) ServeDials(ctx context.Context, conn *net.UnixConn) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	packet := make([]byte, maxDialPacket)
	for {
		n, err := conn.Read(packet)
		if err != nil || n == 0 {
			return
		}
		if err := c.serveDial(ctx, conn, string(packet[:n])); err != nil {
			return
		}
	}
}

func (c *Client) serveDial(ctx context.Context, conn *net.UnixConn, hostport string) error {
	to, err := c.dial(ctx, "tcp", hostport)
	if err != nil {
		var known *Error
		if !errors.As(netError(ctx, err), &known) {
			return err
		}
		return answerDial(conn, dialAnswer{known}, nil)
	}
	defer to.Close()
	file, err := to.(*net.TCPConn).File()
	if err != nil {
		return fmt.Errorf("hand over connection: %w", err)
	}
	defer file.Close()
	return answerDial(conn, dialAnswer{}, unix.UnixRights(int(file.Fd())))
}

func answerDial(conn *net.UnixConn, a dialAnswer, rights []byte) error {
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	_, _, err = conn.WriteMsgUnix(b, rights, nil)
	return err
}

// DialThrough returns what [Options.Dial] wants in a process whose conn leads
// to another one's [Client.ServeDials].
func DialThrough(conn *net.UnixConn) func(ctx context.Context, network, hostport string) (net.Conn, error) {
	var one sync.Mutex
	return func(ctx context.Context, _, hostport string) (net.Conn, error) {
		one.Lock()
		defer one.Unlock()
		if _, err := conn.Write([]byte(hostport)); err != nil {
			return nil, fmt.Errorf("ask for connection: %w", err)
		}
		packet, rights := make([]byte, maxDialPacket), make([]byte, unix.CmsgSpace(4))
		n, nr, _, _, err := conn.ReadMsgUnix(packet, rights)
		if err != nil {
			return nil, fmt.Errorf("ask for connection: %w", err)
		}
		var answer dialAnswer
		if err := json.Unmarshal(packet[:n], &answer); err != nil {
			return nil, fmt.Errorf("read connection: %w", err)
		}
		if answer.Error != nil {
			return nil, answer.Error
		}
		return received(rights[:nr])
	}
}

// received returns the connection that came as a control message.
func received(rights []byte) (net.Conn, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, errors.New("read connection: none came")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("read connection: none came")
	}
	file := os.NewFile(uintptr(fds[0]), "upstream")
	defer file.Close()
	return net.FileConn(file)
}
