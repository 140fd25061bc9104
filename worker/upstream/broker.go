package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Questions and answers are one packet each, on a SOCK_SEQPACKET socket. A
// question is a host and port to dial, or askLogin.
const (
	maxPacket = 4 << 10
	askLogin  = "login"
)

// A brokered answer has the credentials, or an error, or comes with the connected socket.
type brokered struct {
	Login *Login `json:"login,omitempty"`
	Error *Error `json:"error,omitempty"`
}

// A Broker dials and logs in for a process that can do neither itself.
type Broker struct {
	client *Client
	login  Login
	gave   atomic.Bool
}

// Broker returns one for what is at u, with the credentials for it, if there are some.
func (c *Client) Broker(u *url.URL) (*Broker, error) {
	login, err := c.login(u)
	if err != nil {
		return nil, err
	}
	return &Broker{client: c, login: login}, nil
}

// Gave reports whether the process got credentials, for which it asks where
// upstream wants some. What it reads then is private, whatever else it says.
func (b *Broker) Gave() bool { return b.gave.Load() }

// Serve dials by the rules of the client until conn or ctx ends: the process
// gets sockets that are connected. So what upstream makes of that process, it
// reaches no address that upstream could not have named.
func (b *Broker) Serve(ctx context.Context, conn *net.UnixConn) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	packet := make([]byte, maxPacket)
	for {
		n, err := conn.Read(packet)
		if err != nil || n == 0 {
			return
		}
		if err := b.serve(ctx, conn, string(packet[:n])); err != nil {
			return
		}
	}
}

func (b *Broker) serve(ctx context.Context, conn *net.UnixConn, question string) error {
	if question == askLogin {
		if !b.login.isZero() {
			b.gave.Store(true)
		}
		return sendAnswer(conn, brokered{Login: &b.login}, nil)
	}
	to, err := b.client.dial(ctx, "tcp", question)
	if err != nil {
		var known *Error
		if !errors.As(netError(ctx, err), &known) {
			return err
		}
		return sendAnswer(conn, brokered{Error: known}, nil)
	}
	defer to.Close()
	file, err := to.(*net.TCPConn).File()
	if err != nil {
		return fmt.Errorf("hand over connection: %w", err)
	}
	defer file.Close()
	return sendAnswer(conn, brokered{}, unix.UnixRights(int(file.Fd())))
}

func sendAnswer(conn *net.UnixConn, a brokered, rights []byte) error {
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	_, _, err = conn.WriteMsgUnix(b, rights, nil)
	return err
}

// Through has a process dial and log in by way of conn, which leads to another
// one's [Broker].
func (o *Options) Through(conn *net.UnixConn) {
	var one sync.Mutex
	ask := func(question string) (answer brokered, rights []byte, err error) {
		one.Lock()
		defer one.Unlock()
		if _, err := conn.Write([]byte(question)); err != nil {
			return answer, nil, fmt.Errorf("ask broker: %w", err)
		}
		packet, rights := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4))
		n, nr, _, _, err := conn.ReadMsgUnix(packet, rights)
		if err != nil {
			return answer, nil, fmt.Errorf("ask broker: %w", err)
		}
		if err := json.Unmarshal(packet[:n], &answer); err != nil {
			return answer, nil, fmt.Errorf("read broker's answer: %w", err)
		}
		return answer, rights[:nr], nil
	}
	o.dial = func(_ context.Context, _, hostport string) (net.Conn, error) {
		answer, rights, err := ask(hostport)
		switch {
		case err != nil:
			return nil, err
		case answer.Error != nil:
			return nil, answer.Error
		}
		return received(rights)
	}
	o.login = func(*url.URL) (login Login, err error) {
		answer, _, err := ask(askLogin)
		if answer.Login != nil {
			login = *answer.Login
		}
		return login, err
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
