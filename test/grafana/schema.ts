// What observability/grafana_dashboard.json may have, by Grafana's own types.  The
// test t/088_observability.pl writes it as a literal of this type into dashboard.ts:
// then a name that Grafana does not know is an error, not only a wrong value.
import type { Dashboard, DashboardLink, FieldConfig, Panel, VariableModel } from '@grafana/schema';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as stateTimeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// JSON has values in place of enums, and Grafana fills in what an option leaves out.
type Values<T> = T extends string ? `${T}` : T extends (infer U)[] ? Values<U>[] : T extends object ? { [K in keyof T]: Values<T[K]> } : T;
type Some<T> = T extends unknown[] ? T : T extends object ? { [K in keyof T]?: Some<T[K]> } : T;

interface Query {
  refId: string;
  datasource: { type: 'prometheus'; uid: string };
  expr: string;
  legendFormat: string;
  instant?: boolean;
  range?: boolean;
  format?: 'time_series' | 'table';
}

type Shown<Type, Options, Custom> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets' | 'links'> & {
  type: Type;
  options: Some<Options>;
  fieldConfig: {
    defaults: Omit<FieldConfig, 'custom'> & { custom?: Some<Custom> };
    overrides: { matcher: { id: string; options: string }; properties: { id: string; value: unknown }[] }[];
  };
  targets: Query[];
  links: Some<DashboardLink>[];
};

type AnyPanel =
  | Shown<'stat', stat.Options, object>
  | Shown<'state-timeline', stateTimeline.Options, stateTimeline.FieldConfig>
  | Shown<'table', table.Options, table.FieldConfig>
  | Shown<'timeseries', timeseries.Options, timeseries.FieldConfig>;

export type Checked = Values<Omit<Dashboard, 'panels' | 'templating'> & { panels: AnyPanel[]; templating: { list: VariableModel[] } }>;
