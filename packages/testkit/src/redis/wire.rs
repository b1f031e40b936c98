//! As much of the protocol as tests need to set servers up: one command, one answer as text.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends a command to the server at this port of 127.0.0.1 and answers what came back, a line for each value.
///
/// # Errors
/// The server's error, or why it has no answer.
pub fn ask(port: u16, command: &[&str]) -> Result<String, String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let socket = TcpStream::connect_timeout(&address, PATIENCE).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    let mut request = format!("*{}\r\n", command.len());
    for part in command {
        request += &format!("${}\r\n{part}\r\n", part.len());
    }
    (&socket).write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut lines = Vec::new();
    read(&mut BufReader::new(socket), &mut lines)?;
    Ok(lines.join("\n"))
}

/// Reads one value into lines.
fn read(from: &mut BufReader<TcpStream>, lines: &mut Vec<String>) -> Result<(), String> {
    let mut head = String::new();
    from.read_line(&mut head).map_err(|e| e.to_string())?;
    let (kind, rest) = head.trim_end().split_at_checked(1).ok_or("the connection was closed")?;
    match kind {
        "+" | ":" => lines.push(rest.to_owned()),
        "-" => return Err(rest.to_owned()),
        "$" => {
            let Ok(length) = rest.parse::<usize>() else {
                lines.push("(nil)".to_owned());
                return Ok(());
            };
            let mut bytes = vec![0; length + 2];
            from.read_exact(&mut bytes).map_err(|e| e.to_string())?;
            lines.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        "*" => {
            for _ in 0..rest.parse::<usize>().unwrap_or(0) {
                read(from, lines)?;
            }
        }
        other => return Err(format!("an answer begins with {other:?}")),
    }
    Ok(())
}
