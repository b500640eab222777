// pgjdbc: every scenario in turn, each printed as a line "name<TAB>what it found". What differs between any two connections is made equal.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

public class Scenarios {
    interface Scenario {
        void run(List<Object> found) throws Exception;
    }

    interface Step {
        Object run() throws Exception;
    }

    static String url;

    static Connection connected(String... options) throws SQLException {
        return DriverManager.getConnection(url + "?user=app_user&currentSchema=scenario" + (options.length == 0 ? "" : "&" + String.join("&", options)));
    }

    static Connection superuser() throws SQLException {
        return DriverManager.getConnection(url + "?user=postgres");
    }

    static Object told(SQLException error) {
        String server = "";
        if (error instanceof PSQLException of && of.getServerErrorMessage() != null) {
            ServerErrorMessage message = of.getServerErrorMessage();
            server = String.join(
                "|", "" + message.getSeverity(), "" + message.getDetail(), "" + message.getHint(), "" + message.getPosition(), "" + message.getWhere(),
                "" + message.getTable(), "" + message.getConstraint(), "" + message.getRoutine(), "" + message.getLine());
        }
        String next = error.getNextException() == null ? "" : " then " + told(error.getNextException());
        return error.getClass().getSimpleName() + " " + error.getSQLState() + " " + error.getMessage().replaceAll(":\\d{4,5}|port \\d+", "#") + " " + server + next;
    }

    static Object failure(Step step) throws Exception {
        try {
            return "unexpected: " + step.run();
        } catch (BatchUpdateException error) {
            return told(error) + " " + Arrays.toString(error.getUpdateCounts());
        } catch (SQLException error) {
            return told(error);
        }
    }

    static List<List<String>> rows(ResultSet result) throws SQLException {
        List<List<String>> rows = new ArrayList<>();
        int width = result.getMetaData().getColumnCount();
        while (result.next()) {
            List<String> row = new ArrayList<>();
            for (int n = 1; n <= width; n++) {
                Object value = result.getObject(n);
                row.add(value instanceof byte[] bytes ? HexFormat.of().formatHex(bytes) : String.valueOf(value));
            }
            rows.add(row);
        }
        result.close();
        return rows;
    }

    static List<List<String>> query(Connection connection, String text, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(text)) {
            for (int n = 0; n < values.length; n++) statement.setObject(n + 1, values[n]);
            return rows(statement.executeQuery());
        }
    }

    static void execute(Connection connection, String text) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(text);
        }
    }

    static int pid(Connection connection) throws SQLException {
        return connection.unwrap(PGConnection.class).getBackendPID();
    }

    static void onceAsleep(Connection admin, int pid) throws SQLException {
        String text = "SELECT count(*) FROM pg_stat_activity WHERE pid = ? AND wait_event = 'PgSleep'";
        while (!query(admin, text, pid).get(0).get(0).equals("1"));
    }

    // --- queries -----------------------------------------------------------------------------------------------------

    static final String TYPES = "SELECT ?::int2, ?::int8, ?::numeric, ?::float8, ?::bool, ?::text, ?::bytea, ?::uuid, ?::timestamptz, ?::date, ?::int[], ?::text[], point(1, 2)";

    static void types(Connection connection, List<Object> found) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(TYPES)) {
            for (int round = 0; round < 7; round++) {
                statement.setShort(1, (short) round);
                statement.setLong(2, 1L << 60);
                statement.setBigDecimal(3, new java.math.BigDecimal("1.50"));
                statement.setDouble(4, 0.1);
                statement.setBoolean(5, true);
                statement.setString(6, "é🔑\\'");
                statement.setBytes(7, new byte[] {0, -1, 92});
                statement.setObject(8, UUID.fromString("7a1d7a3e-54a0-4b1f-9c8e-0d5d3f0c1b2e"));
                statement.setTimestamp(9, new Timestamp(0));
                statement.setDate(10, java.sql.Date.valueOf("2024-02-29"));
                Array numbers = connection.createArrayOf("int4", new Integer[] {1, null, 3});
                statement.setArray(11, numbers);
                if (round == 3) statement.setNull(12, Types.ARRAY); else statement.setArray(12, connection.createArrayOf("text", new String[] {"a", "b\"\\", null}));
                found.add(rows(statement.executeQuery()));
            }
            ResultSetMetaData columns = statement.getMetaData();
            for (int n = 1; n <= columns.getColumnCount(); n++) found.add(columns.getColumnName(n) + " " + columns.getColumnTypeName(n) + " " + columns.getPrecision(n));
            found.add(statement.getParameterMetaData().getParameterTypeName(2));
        }
    }

    static void modes(List<Object> found) throws Exception {
        String[] modes = {"preferQueryMode=simple", "preferQueryMode=extended", "preferQueryMode=extendedForPrepared", "prepareThreshold=1", "prepareThreshold=0",
            "prepareThreshold=-1", "binaryTransfer=false", "preferQueryMode=extendedCacheEverything", "preparedStatementCacheQueries=0"};
        for (String mode : modes) {
            try (Connection connection = connected(mode)) {
                found.add(mode);
                // In simple mode this version of the driver does not quote every type.
                if (mode.endsWith("=simple")) found.add(query(connection, "SELECT ?, ?::int8, ?::numeric, ?::bool, ?::uuid", "é🔑\\'", 1L << 60, new java.math.BigDecimal("1.50"), true, new UUID(1, 2)));
                else types(connection, found);
                try (Statement statement = connection.createStatement()) {
                    execute(connection, "CREATE TEMP TABLE t (a int)");
                    for (boolean more = statement.execute("SELECT 1; INSERT INTO t VALUES (1), (2); SELECT a FROM t"); more || statement.getUpdateCount() != -1; more = statement.getMoreResults()) {
                        found.add(more ? rows(statement.getResultSet()) : statement.getUpdateCount());
                    }
                }
                found.add(query(connection, "SELECT count(*), bool_or(from_sql) FROM pg_prepared_statements"));
                for (String text : new String[] {"SELEC 1", "SELECT nothing", "SELECT 1/0", "SELECT 1; SELECT 1/0", ""}) {
                    found.add(failure(() -> query(connection, text)));
                    found.add(failure(() -> { execute(connection, text); return null; }));
                }
                found.add(failure(() -> query(connection, "SELECT ?::int", "x")));
                found.add(query(connection, "SELECT length(?)", "é🔑".repeat(100000)));
            }
        }
    }

    static void errors(List<Object> found) throws Exception {
        try (Connection connection = connected()) {
            execute(connection, "CREATE TABLE t (a int CONSTRAINT positive CHECK (a > 0), b text UNIQUE NOT NULL)");
            for (String text : new String[] {"INSERT INTO t VALUES (0, 'x')", "INSERT INTO t VALUES (1)", "DO $$ BEGIN RAISE EXCEPTION 'said' USING ERRCODE = 'AB123', HINT = 'a hint', DETAIL = 'a detail'; END $$"})
                found.add(failure(() -> { execute(connection, text); return null; }));
            try (Statement statement = connection.createStatement()) {
                statement.execute("DO $$ BEGIN RAISE NOTICE 'noted'; RAISE WARNING 'warned'; END $$");
                for (SQLWarning warning = statement.getWarnings(); warning != null; warning = warning.getNextWarning()) found.add(warning.getSQLState() + warning.getMessage());
            }
        }
        found.add(failure(() -> DriverManager.getConnection(url.replace("/app", "/nowhere") + "?user=app_user")));
        found.add(failure(() -> DriverManager.getConnection(url + "?user=nobody_at_all")));
        found.add(failure(() -> DriverManager.getConnection(url + "?user=app_user&sslmode=require").isValid(5)));
        try (Connection connection = DriverManager.getConnection(url + "?user=app_user&targetServerType=primary&tcpKeepAlive=true&gssEncMode=prefer&ApplicationName=named")) {
            found.add(query(connection, "SHOW application_name"));
            found.add(connection.isValid(5));
            found.add(rows(connection.getMetaData().getFunctions(null, "encrypted_secrets", "%")));
        }
    }

    // --- many rows ---------------------------------------------------------------------------------------------------

    static void batches(List<Object> found) throws Exception {
        for (String option : new String[] {"reWriteBatchedInserts=false", "reWriteBatchedInserts=true", "preferQueryMode=simple"}) {
            try (Connection connection = connected(option)) {
                execute(connection, "DROP TABLE IF EXISTS t; CREATE TABLE t (id serial PRIMARY KEY, a int CHECK (a >= 0), b text)");
                try (PreparedStatement statement = connection.prepareStatement("INSERT INTO t (a, b) VALUES (?, ?)")) {
                    for (int n = 0; n < 3000; n++) {
                        statement.setInt(1, n);
                        statement.setString(2, "row " + n);
                        statement.addBatch();
                    }
                    found.add(Arrays.hashCode(statement.executeBatch()));
                    for (int n = -5; n < 5; n++) {
                        statement.setInt(1, -n);
                        statement.setString(2, "x".repeat(20000));
                        statement.addBatch();
                    }
                    found.add(failure(statement::executeBatch));
                }
                try (PreparedStatement statement = connection.prepareStatement("INSERT INTO t (a, b) VALUES (?, ?)", Statement.RETURN_GENERATED_KEYS)) {
                    for (int n = 0; n < 200; n++) {
                        statement.setInt(1, n);
                        statement.setString(2, null);
                        statement.addBatch();
                    }
                    statement.executeBatch();
                    found.add(rows(statement.getGeneratedKeys()).size());
                }
                try (PreparedStatement statement = connection.prepareStatement("UPDATE t SET b = ? WHERE a = 7", new String[] {"id", "b"})) {
                    statement.setString(1, "changed");
                    found.add(statement.executeUpdate());
                    found.add(rows(statement.getGeneratedKeys()));
                }
                try (Statement statement = connection.createStatement()) {
                    for (String text : new String[] {"INSERT INTO t (a) VALUES (1)", "DELETE FROM t WHERE a < 5", "SELECT 1/0", "DELETE FROM t"}) statement.addBatch(text);
                    found.add(failure(statement::executeBatch));
                }
                found.add(query(connection, "SELECT count(*), sum(a), min(id) FROM t"));
            }
        }
    }

    static void cursors(List<Object> found) throws Exception {
        try (Connection connection = connected("defaultRowFetchSize=50")) {
            connection.setAutoCommit(false);
            try (PreparedStatement statement = connection.prepareStatement("SELECT n, repeat('x', n % 100) FROM generate_series(1, ?) n")) {
                statement.setInt(1, 5000);
                ResultSet result = statement.executeQuery();
                long sum = 0;
                for (int n = 0; result.next(); n++) {
                    sum += result.getInt(1) + result.getString(2).length();
                    // Another statement between the portal's suspensions.
                    if (n % 500 == 0) found.add(query(connection, "SELECT 'between', ?", n));
                }
                found.add(sum);
                statement.setFetchSize(3);
                try (ResultSet early = statement.executeQuery()) {
                    early.next();
                    early.next();
                    found.add(early.getInt(1));
                }
            }
            found.add(failure(() -> query(connection, "SELECT 10 / (120 - n) FROM generate_series(1, 200) n")));
            found.add(failure(() -> query(connection, "SELECT 1")));
            connection.rollback();
            try (PreparedStatement held = connection.prepareStatement("SELECT n FROM generate_series(1, 200) n", ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY, ResultSet.HOLD_CURSORS_OVER_COMMIT)) {
                ResultSet result = held.executeQuery();
                result.next();
                connection.commit();
                found.add(rows(result).size());
            }
            execute(connection, "CREATE FUNCTION several(refcursor) RETURNS refcursor LANGUAGE plpgsql AS $$ BEGIN OPEN $1 FOR SELECT generate_series(1, 120); RETURN $1; END $$");
            try (CallableStatement call = connection.prepareCall("{? = call several(?)}")) {
                call.registerOutParameter(1, Types.REF_CURSOR);
                call.setObject(2, "named", Types.OTHER);
                call.execute();
                found.add(rows((ResultSet) call.getObject(1)).size());
            }
            connection.commit();
            execute(connection, "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t VALUES (1, 'one')");
            try (Statement statement = connection.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE); ResultSet result = statement.executeQuery("SELECT a, b FROM t")) {
                result.next();
                result.updateString(2, "changed");
                result.updateRow();
                result.moveToInsertRow();
                result.updateInt(1, 2);
                result.insertRow();
            }
            found.add(query(connection, "SELECT * FROM t ORDER BY a"));
            connection.commit();
        }
    }

    static void copying(List<Object> found) throws Exception {
        try (Connection connection = connected()) {
            execute(connection, "CREATE TABLE t (a int, b text)");
            CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int n = 0; n < 20000; n++) lines.append(n).append('\t').append("row ".repeat(n % 20)).append('\n');
            found.add(copy.copyIn("COPY t FROM STDIN", new StringReader(lines.toString())));
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            found.add(copy.copyOut("COPY (SELECT * FROM t ORDER BY a) TO STDOUT", out));
            found.add(out.toString(StandardCharsets.UTF_8).equals(lines.toString()));
            out.reset();
            copy.copyOut("COPY (SELECT a FROM t WHERE a < 9 ORDER BY a) TO STDOUT (FORMAT binary)", out);
            found.add(HexFormat.of().formatHex(out.toByteArray()));
            found.add(copy.copyIn("COPY t (a) FROM STDIN (FORMAT binary)", new ByteArrayInputStream(out.toByteArray())));
            found.add(failure(() -> copy.copyIn("COPY t FROM STDIN", new StringReader("x\ty\n"))));
            found.add(failure(() -> copy.copyOut("COPY nothing TO STDOUT", new ByteArrayOutputStream())));
            CopyIn given = copy.copyIn("COPY t FROM STDIN");
            given.writeToCopy("1\tx\n".getBytes(), 0, 4);
            given.cancelCopy();
            found.add(query(connection, "SELECT count(*) FROM t"));
        }
    }

    static void largeObjects(List<Object> found) throws Exception {
        try (Connection connection = connected()) {
            connection.setAutoCommit(false);
            LargeObjectManager manager = connection.unwrap(PGConnection.class).getLargeObjectAPI();
            long oid = manager.createLO();
            try (LargeObject large = manager.open(oid)) {
                for (int n = 0; n < 200; n++) {
                    byte[] part = new byte[5000];
                    Arrays.fill(part, (byte) n);
                    large.write(part);
                }
                large.seek(4998);
                found.add(HexFormat.of().formatHex(large.read(4)));
                found.add(large.tell64());
                large.truncate64(700000);
                found.add(large.size64());
                large.seek(0);
                found.add(large.getInputStream().readAllBytes().length);
            }
            Savepoint savepoint = connection.setSavepoint();
            found.add(failure(() -> manager.open(1)).toString());
            connection.rollback(savepoint);
            manager.delete(oid);
            connection.commit();
        }
    }

    // --- transactions, cancel requests, notifications ------------------------------------------------------------------

    static void transactions(List<Object> found) throws Exception {
        for (String option : new String[] {"autosave=never", "autosave=always", "autosave=conservative", "cleanupSavepoints=true"}) {
            try (Connection connection = connected(option)) {
                execute(connection, "DROP TABLE IF EXISTS t; CREATE TABLE t (a int)");
                connection.setAutoCommit(false);
                connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
                execute(connection, "INSERT INTO t VALUES (1)");
                Savepoint outer = connection.setSavepoint("outer");
                execute(connection, "INSERT INTO t VALUES (2)");
                Savepoint inner = connection.setSavepoint();
                found.add(failure(() -> query(connection, "SELECT 1/?", 0)));
                found.add(failure(() -> query(connection, "SELECT a FROM t ORDER BY a")));
                connection.rollback(inner);
                connection.releaseSavepoint(outer);
                found.add(query(connection, "SELECT a FROM t ORDER BY a"));
                found.add(failure(() -> query(connection, "SELECT nothing")));
                found.add(failure(() -> { connection.commit(); return null; }));
                found.add(query(connection, "SELECT a FROM t ORDER BY a"));
                connection.rollback();
                connection.setReadOnly(true);
                found.add(failure(() -> { execute(connection, "INSERT INTO t VALUES (3)"); return null; }));
                connection.rollback();
            }
        }
        try (Connection connection = connected(); Connection other = connected()) {
            execute(connection, "DROP TABLE t; CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
            for (int n = 0; n < 6; n++) query(connection, "SELECT * FROM t");
            execute(other, "ALTER TABLE t ALTER a TYPE text");
            // The driver prepares again by itself.
            found.add(failure(() -> query(connection, "SELECT * FROM t")));
            execute(connection, "DEALLOCATE ALL");
            found.add(failure(() -> query(connection, "SELECT * FROM t")));
        }
    }

    static void cancelling(List<Object> found) throws Exception {
        try (Connection connection = connected(); Connection admin = superuser(); Statement statement = connection.createStatement()) {
            int pid = pid(connection);
            for (int n = 0; n < 2; n++) {
                Thread canceller = new Thread(() -> {
                    try {
                        onceAsleep(admin, pid);
                        statement.cancel();
                    } catch (SQLException error) {
                        throw new RuntimeException(error);
                    }
                });
                canceller.start();
                found.add(failure(() -> statement.execute("SELECT pg_sleep(60)")));
                canceller.join();
            }
            statement.setQueryTimeout(1);
            found.add(failure(() -> statement.execute("SELECT pg_sleep(60)")));
            statement.setQueryTimeout(0);
            found.add(rows(statement.executeQuery("SELECT 'goes on'")));
            query(admin, "SELECT pg_terminate_backend(?, 10000)", pid);
            found.add(failure(() -> statement.execute("SELECT 1")));
            found.add(connection.isValid(5));
        }
    }

    static void notifications(List<Object> found) throws Exception {
        try (Connection connection = connected(); Connection other = connected()) {
            execute(connection, "LISTEN news; LISTEN \"Other News\"");
            for (int n = 0; n < 50; n++) query(other, "SELECT pg_notify('news', ?)", "" + n);
            execute(other, "BEGIN; NOTIFY \"Other News\", 'two'; COMMIT; BEGIN; NOTIFY news, 'never'; ROLLBACK; NOTIFY news");
            List<String> heard = new ArrayList<>();
            while (heard.size() < 52) {
                PGNotification[] some = connection.unwrap(PGConnection.class).getNotifications(10000);
                if (some == null) break;
                for (PGNotification note : some) heard.add(note.getName() + " " + note.getParameter());
            }
            found.add(heard);
        }
    }

    // --- secrets -----------------------------------------------------------------------------------------------------

    static void functions(Connection connection, List<Object> found, UUID owner, String value) throws SQLException {
        try (CallableStatement call = connection.prepareCall("{? = call encrypted_secrets.secrets_getter(?, ?)}")) {
            call.registerOutParameter(1, Types.VARCHAR);
            for (String secret : new String[] {"api", "absent"}) {
                call.setObject(2, owner);
                call.setString(3, secret);
                call.execute();
                found.add(value.equals(call.getString(1)));
            }
        }
        try (CallableStatement call = connection.prepareCall("{? = call encrypted_secrets.secrets_verify(?, ?, ?)}")) {
            call.registerOutParameter(1, Types.BOOLEAN);
            call.setObject(2, owner);
            call.setString(3, "password");
            call.setString(4, value);
            call.execute();
            found.add(call.getBoolean(1));
        }
    }

    static void secrets(List<Object> found, String name, UUID owner, String value) throws Exception {
        for (String mode : new String[] {"prepareThreshold=1", "preferQueryMode=simple"}) {
            try (Connection connection = connected(mode, "ApplicationName=" + name + "%20" + mode.replaceAll(".*=", ""))) {
                found.add(query(connection, "SELECT encrypted_secrets.secrets_upsert(?, ?, ?)", owner, "api", value));
                found.add(query(connection, "SELECT encrypted_secrets.secrets_upsert(?, ?, ?, ?)", owner, "password", value, "crypt"));
                // In simple mode the driver passes the place of a function's result as an argument.
                if (mode.endsWith("=simple")) {
                    for (String secret : new String[] {"api", "absent"}) found.add(value.equals(query(connection, "SELECT encrypted_secrets.secrets_getter(?, ?)", owner, secret).get(0).get(0)));
                    found.add(query(connection, "SELECT encrypted_secrets.secrets_verify(?, ?, ?)", owner, "password", value));
                } else {
                    functions(connection, found, owner, value);
                }
                connection.setAutoCommit(false);
                try (PreparedStatement statement = connection.prepareStatement("SELECT encrypted_secrets.secrets_getter(?, 'api') = ? FROM generate_series(1, 5)")) {
                    statement.setObject(1, owner);
                    statement.setString(2, value);
                    statement.setFetchSize(2);
                    found.add(rows(statement.executeQuery()));
                }
                // What a direct session's functions write is gone with a transaction that fails.
                connection.commit();
                found.add(failure(() -> query(connection, "SELECT encrypted_secrets.secrets_getter(?, ?), 1/0", owner, "api")));
                connection.rollback();
                connection.setAutoCommit(true);
                try (PreparedStatement statement = connection.prepareStatement("SELECT encrypted_secrets.secrets_delete(?, ?::text[])")) {
                    statement.setObject(1, owner);
                    statement.setArray(2, connection.createArrayOf("text", new String[] {"password", "b"}));
                    found.add(rows(statement.executeQuery()));
                }
                try (CallableStatement statement = connection.prepareCall("{call encrypted_secrets.secrets_delete(?, ?::text)}")) {
                    for (String secret : new String[] {"api", "c"}) {
                        statement.setObject(1, owner);
                        statement.setString(2, secret);
                        statement.addBatch();
                    }
                    found.add(Arrays.toString(statement.executeBatch()));
                }
            }
        }
    }

    static void report(String name, Scenario scenario) throws Exception {
        try (Connection connection = superuser()) {
            execute(connection, "DROP SCHEMA IF EXISTS scenario CASCADE; CREATE SCHEMA scenario AUTHORIZATION app_user");
        }
        List<Object> found = new ArrayList<>();
        try {
            scenario.run(found);
        } catch (SQLException error) {
            throw new Exception(name + " after " + found.size() + ": " + told(error), error);
        }
        System.out.println(name + "\t" + String.join("\u001f", found.stream().map(part -> String.valueOf(part).replace("\n", "\\n")).toList()));
    }

    public static void main(String[] arguments) throws Exception {
        java.util.TimeZone.setDefault(java.util.TimeZone.getTimeZone("UTC"));
        url = arguments[0];
        report("modes", Scenarios::modes);
        report("errors", Scenarios::errors);
        report("batches", Scenarios::batches);
        report("cursors", Scenarios::cursors);
        report("copying", Scenarios::copying);
        report("largeObjects", Scenarios::largeObjects);
        report("transactions", Scenarios::transactions);
        report("cancelling", Scenarios::cancelling);
        report("notifications", Scenarios::notifications);
        report("secrets", found -> secrets(found, arguments[1], UUID.fromString(arguments[2]), System.getenv("SCENARIO_VALUE")));
    }
}
